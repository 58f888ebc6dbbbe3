// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package services

import (
	"os"
	"path/filepath"
	"strings"
	"text/template"
)

const region = "RegionOne"

// openStackFiles are the services' configurations, by name.
var openStackFiles = map[string]string{
	"keystone": `[DEFAULT]
transport_url = {{.TransportURL}}
[database]
connection = {{.DB "keystone"}}
[token]
provider = fernet
expiration = 86400
[fernet_tokens]
key_repository = {{.Path "etc/keystone/fernet"}}
[fernet_receipts]
key_repository = {{.Path "etc/keystone/fernet"}}
[credential]
key_repository = {{.Path "etc/keystone/credential"}}
[identity]
password_hash_rounds = 4
{{.Notifications .Topic}}`,

	"placement": `[placement_database]
connection = {{.DB "placement"}}
{{.Token "placement"}}`,

	// Its WSGI application insists on the name.
	"glance-api": `[DEFAULT]
bind_host = 127.0.0.1
bind_port = {{.Ports.Glance}}
workers = 0
[database]
connection = {{.DB "glance"}}
[glance_store]
stores = file
default_store = file
filesystem_store_datadir = {{.Path "images"}}
[paste_deploy]
flavor = keystone
config_file = /usr/share/glance-common/glance-api-paste.ini
[oslo_concurrency]
lock_path = {{.Path "lock"}}
{{.Token "glance"}}`,

	"neutron": `[DEFAULT]
host = one
bind_host = 127.0.0.1
bind_port = {{.Ports.Neutron}}
transport_url = {{.TransportURL}}
api_paste_config = /usr/share/neutron-common/api-paste.ini
state_path = {{.Path "state"}}
core_plugin = ml2
service_plugins = router,port_forwarding
api_workers = 1
rpc_workers = 1
rpc_state_report_workers = 0
dns_domain = cloud.test.
[database]
connection = {{.DB "neutron"}}
[nova]
{{.Login "nova"}}
[placement]
{{.Login "neutron"}}
[oslo_concurrency]
lock_path = {{.Path "lock"}}
[ml2]
type_drivers = flat,vlan
tenant_network_types = vlan
mechanism_drivers = openvswitch
extension_drivers = port_security,dns
[ml2_type_flat]
flat_networks = *
[ml2_type_vlan]
network_vlan_ranges = inside:100:200
[quotas]
quota_port = -1
quota_floatingip = -1
{{.Notifications .Topic}}
{{.Token "neutron"}}`,

	"nova": `{{.Nova}}[database]
connection = {{.DB "nova"}}
[api_database]
connection = {{.DB "nova_api"}}
`,
	// The compute service refuses to start with a database of its own.
	"nova-compute": `{{.Nova}}`,
}

// novaPaste says what Nova's APIs are made of.
const novaPaste = "/usr/share/nova-common/api-paste.ini"

// novaCommon is what all of Nova's daemons are told. Nova sends notifications
// of both forms, each to a topic of its own. In a storm the one compute service
// may be too busy to say for a minute that it is there, and is not down for that.
const novaCommon = `[DEFAULT]
host = one
my_ip = 127.0.0.1
state_path = {{.Path "state"}}
instances_path = {{.Path "state"}}
compute_driver = fake.FakeDriver
transport_url = {{.TransportURL}}
osapi_compute_listen = 127.0.0.1
osapi_compute_listen_port = {{.Ports.Nova}}
osapi_compute_workers = 1
metadata_listen = 127.0.0.1
metadata_listen_port = {{.Ports.Metadata}}
metadata_workers = 1
vif_plugging_is_fatal = false
vif_plugging_timeout = 0
rpc_response_timeout = 180
service_down_time = 3600
[wsgi]
api_paste_config = ` + novaPaste + `
[api]
vendordata_providers = StaticJSON,DynamicJSON
vendordata_dynamic_targets = muster@http://{{.Vendordata}}/v1/vendordata,tatu@http://{{.Vendordata}}/v1/novavendordata,join@http://{{.Join}}/v1/
vendordata_dynamic_connect_timeout = 5
vendordata_dynamic_read_timeout = 5
[vendordata_dynamic_auth]
{{.Login "nova"}}
[service_user]
send_service_user_token = true
{{.Login "nova"}}
[glance]
{{.Login "nova"}}
[placement]
{{.Login "nova"}}
[neutron]
{{.Login "nova"}}
service_metadata_proxy = true
metadata_proxy_shared_secret = {{.MetadataSecret}}
[conductor]
workers = 1
[scheduler]
workers = 1
discover_hosts_in_cells_interval = 3
[quota]
driver = nova.quota.NoopQuotaDriver
[notifications]
notification_format = both
notify_on_state_change = vm_and_task_state
versioned_notifications_topics = {{.VersionedTopic}}
[oslo_concurrency]
lock_path = {{.Path "lock"}}
[vnc]
enabled = false
{{.Notifications .Topic}}
{{.Token "nova"}}`

// openStackSettings are what the templates may use.
type openStackSettings struct {
	*OpenStack
	Ports struct{ Glance, Neutron, Nova, Metadata int }
}

// configure writes the services' files.
func (o *OpenStack) configure() error {
	s := openStackSettings{OpenStack: o}
	s.Ports.Glance, s.Ports.Neutron, s.Ports.Nova, s.Ports.Metadata = o.ports.glance, o.ports.neutron, o.ports.nova, o.ports.metadata
	for _, folder := range []string{"empty", "log", "lock", "images", "state"} {
		if err := os.Mkdir(o.path(folder), 0o700); err != nil {
			return err
		}
	}
	for name, text := range openStackFiles {
		made, err := s.fill(text)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(o.file(name)), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(o.file(name), []byte(made), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (s openStackSettings) fill(text string) (string, error) {
	parsed, err := template.New("").Parse(text)
	if err != nil {
		return "", err
	}
	var made strings.Builder
	err = parsed.Execute(&made, s)
	return made.String(), err
}

// Nova is the part that its daemons have in common.
func (s openStackSettings) Nova() (string, error) { return s.fill(novaCommon) }

// Path is a path in the cloud's folder.
func (s openStackSettings) Path(name string) string { return s.path(name) }

// DB is the URL of a service's database.
func (s openStackSettings) DB(name string) string { return s.url(name) }

// Login is how a service logs in to Keystone.
func (s openStackSettings) Login(user string) string {
	return strings.Join([]string{"auth_type = password", "auth_url = " + s.AuthURL, "username = " + user, "password = " + s.Password,
		"user_domain_id = default", "project_name = service", "project_domain_id = default", "region_name = " + region}, "\n")
}

// Token is how a service validates tokens.
func (s openStackSettings) Token(user string) string {
	return "[keystone_authtoken]\nwww_authenticate_uri = " + s.AuthURL + "\nservice_token_roles_required = true\n" + s.Login(user) + "\n"
}

// Notifications sends them to a topic.
func (s openStackSettings) Notifications(topic string) string {
	return "[oslo_messaging_notifications]\ndriver = messagingv2\ntopics = " + topic + "\n"
}
