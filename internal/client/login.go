// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/config/clouds"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"
	"go.yaml.in/yaml/v3"
)

// serviceType is Muster's in Keystone's catalogue, and was Tatu's.
const serviceType = "ssh"

// requestTimeout is for each request to Keystone or Muster.
const requestTimeout = time.Minute

// reconcileTimeout is for a whole comparison; Muster itself gives up before.
const reconcileTimeout = 16 * time.Minute

// Login asks Keystone for a token, as python-openstackclient does: by the
// cloud of clouds.yaml that cfg.Cloud or OS_CLOUD names, or else by the OS_*
// variables. Muster's address is cfg.URL, or stands in the catalogue.
func Login(ctx context.Context, cfg Config) (*Client, error) {
	auth, endpoint, security, err := credentials(cfg)
	if err != nil {
		return nil, err
	}
	c := &Client{http: newHTTP(security)}
	provider, err := openstack.NewClient(auth.IdentityEndpoint)
	if err != nil {
		return nil, fmt.Errorf("the address of Keystone (OS_AUTH_URL): %w", err)
	}
	provider.HTTPClient = *c.http
	if err := openstack.Authenticate(ctx, provider, auth); err != nil {
		return nil, loginError(auth, err)
	}
	c.token = provider.Token()
	granted, err := grantOf(provider.GetAuthResult())
	if err != nil {
		return nil, fmt.Errorf("log in to Keystone: what it answers cannot be read: %w", err)
	}
	if auth.Scope == nil && granted.isUnscoped() {
		return nil, errors.New("the log-in is for no project; name one by OS_PROJECT_NAME or OS_PROJECT_ID (project_name or project_id in clouds.yaml)")
	}
	c.projectID = granted.projectID
	address := cfg.URL
	if address == "" {
		endpoint.ApplyDefaults(serviceType)
		if address, err = provider.EndpointLocator(endpoint); err != nil {
			return nil, noAddress(granted.catalog, endpoint)
		}
	}
	c.base, err = baseURL(address)
	return c, err
}

// grant is what Keystone says of a token.
type grant struct {
	projectID string // "" without a project
	hasDomain bool
	catalog   []tokens.CatalogEntry
}

// isUnscoped reports whether the token is for nothing. Keystone gives such
// tokens no catalogue; those for the system have one.
func (g grant) isUnscoped() bool { return g.projectID == "" && !g.hasDomain && len(g.catalog) == 0 }

// grantOf reads Keystone's answer to a log-in, or to the question about a token
// that is used as it is.
func grantOf(result gophercloud.AuthResult) (grant, error) {
	answer, ok := result.(interface {
		ExtractProject() (*tokens.Project, error)
		ExtractDomain() (*tokens.Domain, error)
		ExtractServiceCatalog() (*tokens.ServiceCatalog, error)
	})
	if !ok {
		return grant{}, fmt.Errorf("an answer of type %T, which is not of Keystone's version 3", result)
	}
	project, projectErr := answer.ExtractProject()
	domain, domainErr := answer.ExtractDomain()
	catalog, catalogErr := answer.ExtractServiceCatalog()
	if err := errors.Join(projectErr, domainErr, catalogErr); err != nil {
		return grant{}, err
	}
	granted := grant{hasDomain: domain != nil, catalog: catalog.Entries}
	if project != nil {
		granted.projectID = project.ID
	}
	return granted, nil
}

// noAddress says where the catalogue has Muster, if not where it was looked for.
func noAddress(catalog []tokens.CatalogEntry, wanted gophercloud.EndpointOpts) error {
	var regions, interfaces []string
	for _, entry := range catalog {
		if entry.Type != serviceType {
			continue
		}
		for _, e := range entry.Endpoints {
			isThere := wanted.Region == "" || wanted.Region == e.Region || wanted.Region == e.RegionID
			switch {
			case isThere:
				interfaces = append(interfaces, e.Interface)
			case e.Interface == string(wanted.Availability):
				regions = append(regions, cmp.Or(e.Region, e.RegionID))
			}
		}
	}
	list := func(names []string) string {
		slices.Sort(names)
		return strings.Join(slices.Compact(names), ", ")
	}
	switch {
	case len(interfaces) > 0:
		return fmt.Errorf("the catalogue of Keystone has no %s address of Muster, but: %s; see OS_INTERFACE (interface in clouds.yaml), or give Muster's address with --url",
			wanted.Availability, list(interfaces))
	case len(regions) > 0:
		return fmt.Errorf("the catalogue of Keystone has no Muster in region %q, but in: %s; see OS_REGION_NAME (region_name in clouds.yaml), or give Muster's address with --url",
			wanted.Region, list(regions))
	}
	return fmt.Errorf("the catalogue of Keystone has no service of type %s for you; give Muster's address with --url", serviceType)
}

func newHTTP(security *tls.Config) *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = security
	return &http.Client{
		Transport: transport, Timeout: requestTimeout,
		// A redirect would take the token to another host.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// loginError says what Keystone answered, without the request, which holds secrets.
func loginError(auth gophercloud.AuthOptions, err error) error {
	var answer gophercloud.ErrUnexpectedResponseCode
	switch {
	case !errors.As(err, &answer):
		return fmt.Errorf("log in to Keystone: %w", err)
	case answer.Actual == http.StatusUnauthorized && auth.Password != "":
		return errors.New("log in to Keystone: it refuses (401); see user, password, project and their domains")
	case answer.Actual == http.StatusUnauthorized && auth.TokenID != "":
		return errors.New("log in to Keystone: it refuses (401); the token (OS_TOKEN) has expired or was revoked, or has no role in this project: get a new one, such as with openstack token issue")
	case answer.Actual == http.StatusUnauthorized:
		return errors.New("log in to Keystone: it refuses (401); see the application credential's ID (or name and user) and secret, and whether it has expired")
	case answer.Actual == http.StatusNotFound:
		return fmt.Errorf("log in to Keystone: it answers 404; is OS_AUTH_URL, %s, its address, such as https://keystone.example.com/v3?", auth.IdentityEndpoint)
	default:
		return fmt.Errorf("log in to Keystone: it answers %d", answer.Actual)
	}
}

// baseURL is Muster's address without final slash and without version.
func baseURL(address string) (*url.URL, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, errors.New("the address of Muster is not one such as https://ssh.example.com:18322")
	}
	u.Path = strings.TrimSuffix(strings.TrimRight(u.Path, "/"), "/v1")
	return u, nil
}

// defaultDomain is the ID of the domain of users and projects that are named
// without one, as in python-openstackclient (--os-default-domain).
const defaultDomain = "default"

// credentials come from clouds.yaml, or from the environment written in its form.
func credentials(cfg Config) (gophercloud.AuthOptions, gophercloud.EndpointOpts, *tls.Config, error) {
	env := map[string]string{}
	for _, variable := range cfg.Environ {
		if name, value, ok := strings.Cut(variable, "="); ok {
			env[name] = value
		}
	}
	var (
		auth     gophercloud.AuthOptions
		endpoint gophercloud.EndpointOpts
		security *tls.Config
		err      error
	)
	switch name := cmp.Or(cfg.Cloud, env["OS_CLOUD"]); {
	case name != "":
		auth, endpoint, security, err = fromFile(name, env)
	case env["OS_AUTH_URL"] != "":
		auth, endpoint, security, err = parseCloud("environment", cloudOf(env))
	default:
		return auth, endpoint, nil, errors.New("who are you? Set OS_CLOUD to a cloud of clouds.yaml, or OS_AUTH_URL and the other variables of an openrc file")
	}
	if err != nil {
		return auth, endpoint, nil, fmt.Errorf("who are you? %w", err)
	}
	if auth.IdentityEndpoint == "" {
		return auth, endpoint, nil, errors.New("who are you? The cloud has no auth_url, the address of Keystone")
	}
	settle(&auth, cmp.Or(env["OS_DEFAULT_DOMAIN"], defaultDomain))
	return auth, endpoint, security, nil
}

// parseCloud reads one cloud as gophercloud does. One without auth is one with
// an empty auth, for gophercloud takes for granted that it is there.
func parseCloud(name string, cloud clouds.Cloud, options ...clouds.ParseOption) (gophercloud.AuthOptions, gophercloud.EndpointOpts, *tls.Config, error) {
	cloud.AuthInfo = cmp.Or(cloud.AuthInfo, &clouds.AuthInfo{})
	text, err := json.Marshal(clouds.Clouds{Clouds: map[string]clouds.Cloud{name: cloud}})
	if err != nil {
		return gophercloud.AuthOptions{}, gophercloud.EndpointOpts{}, nil, err
	}
	// JSON is YAML.
	return clouds.Parse(append(options, clouds.WithCloudName(name), clouds.WithCloudsYAML(bytes.NewReader(text)))...)
}

// fromFile reads a cloud of the first clouds.yaml that there is, and what the
// secure.yaml next to it adds. Errors name the file.
func fromFile(name string, env map[string]string) (auth gophercloud.AuthOptions, endpoint gophercloud.EndpointOpts, security *tls.Config, err error) {
	file, text, err := readFirst(cloudFiles(env))
	if err != nil {
		return auth, endpoint, nil, err
	}
	known, err := parseClouds(file, text)
	if err != nil {
		return auth, endpoint, nil, err
	}
	cloud, found := known[name]
	if !found {
		return auth, endpoint, nil, fmt.Errorf("%s has no cloud %q, but: %s", file, name,
			cmp.Or(strings.Join(slices.Sorted(maps.Keys(known)), ", "), "none at all"))
	}
	var options []clouds.ParseOption
	secure := filepath.Join(filepath.Dir(file), "secure.yaml")
	switch text, err := os.ReadFile(secure); {
	case err == nil:
		if _, err := parseClouds(secure, text); err != nil {
			return auth, endpoint, nil, err
		}
		options = append(options, clouds.WithSecureYAML(bytes.NewReader(text)))
	case !errors.Is(err, fs.ErrNotExist):
		return auth, endpoint, nil, err
	}
	if auth, endpoint, security, err = parseCloud(name, cloud, options...); err != nil {
		return auth, endpoint, nil, fmt.Errorf("cloud %q of %s: %w", name, file, err)
	}
	return auth, endpoint, security, nil
}

// cloudFiles are those that may be clouds.yaml (openstacksdk, "Configuring
// OpenStack SDK Applications").
func cloudFiles(env map[string]string) []string {
	if file := env["OS_CLIENT_CONFIG_FILE"]; file != "" {
		return []string{file}
	}
	files := []string{"clouds.yaml"}
	if home := env["HOME"]; home != "" || env["XDG_CONFIG_HOME"] != "" {
		files = append(files, filepath.Join(cmp.Or(env["XDG_CONFIG_HOME"], filepath.Join(home, ".config")), "openstack", "clouds.yaml"))
	}
	return append(files, "/etc/openstack/clouds.yaml")
}

// readFirst reads the first of the files that is there.
func readFirst(files []string) (string, []byte, error) {
	for _, file := range files {
		text, err := os.ReadFile(file)
		if !errors.Is(err, fs.ErrNotExist) {
			return file, text, err
		}
	}
	return "", nil, fmt.Errorf("there is no clouds.yaml; looked for %s", strings.Join(files, ", "))
}

// quoted is what yaml quotes of a value that is not of the right type.
var quoted = regexp.MustCompile("`[^`]*`")

// parseClouds reads the file's clouds. Its errors hold no values, which may be
// secrets.
func parseClouds(file string, text []byte) (map[string]clouds.Cloud, error) {
	var known clouds.Clouds
	if err := yaml.Unmarshal(text, &known); err != nil {
		return nil, fmt.Errorf("%s: %s", file, quoted.ReplaceAllString(err.Error(), "****"))
	}
	return known.Clouds, nil
}

// settle leaves of what is given what goes together, as openrc files and people
// have more than Keystone takes: a token says who its owner is, an ID which
// domain. Names without a domain are of the default one.
func settle(auth *gophercloud.AuthOptions, domainID string) {
	switch {
	case auth.Password == "" && auth.TokenID != "":
		auth.Username, auth.UserID, auth.DomainID, auth.DomainName = "", "", "", ""
	case auth.UserID != "":
		auth.Username, auth.DomainID, auth.DomainName = "", "", ""
	case auth.DomainID != "":
		auth.DomainName = ""
	case auth.Username != "" && auth.DomainName == "":
		auth.DomainID = domainID
	}
	if scope := auth.Scope; scope != nil && scope.ProjectName != "" && scope.DomainID == "" && scope.DomainName == "" {
		scope.DomainID = domainID
	}
}

// cloudOf turns the variables of an openrc file into a cloud of clouds.yaml.
// gophercloud's own reader of the environment knows no user and project domains.
func cloudOf(env map[string]string) clouds.Cloud {
	cloud := clouds.Cloud{
		RegionName: env["OS_REGION_NAME"], Interface: cmp.Or(env["OS_INTERFACE"], env["OS_ENDPOINT_TYPE"]),
		CACertFile: env["OS_CACERT"], ClientCertFile: env["OS_CERT"], ClientKeyFile: env["OS_KEY"],
		AuthInfo: &clouds.AuthInfo{
			AuthURL: env["OS_AUTH_URL"], Token: env["OS_TOKEN"],
			Username: env["OS_USERNAME"], UserID: cmp.Or(env["OS_USER_ID"], env["OS_USERID"]), Password: env["OS_PASSWORD"],
			UserDomainName: env["OS_USER_DOMAIN_NAME"], UserDomainID: env["OS_USER_DOMAIN_ID"],
			ProjectName: cmp.Or(env["OS_PROJECT_NAME"], env["OS_TENANT_NAME"]), ProjectID: cmp.Or(env["OS_PROJECT_ID"], env["OS_TENANT_ID"]),
			ProjectDomainName: env["OS_PROJECT_DOMAIN_NAME"], ProjectDomainID: env["OS_PROJECT_DOMAIN_ID"],
			DomainName: env["OS_DOMAIN_NAME"], DomainID: env["OS_DOMAIN_ID"], SystemScope: env["OS_SYSTEM_SCOPE"],
			ApplicationCredentialID: env["OS_APPLICATION_CREDENTIAL_ID"], ApplicationCredentialName: env["OS_APPLICATION_CREDENTIAL_NAME"],
			ApplicationCredentialSecret: env["OS_APPLICATION_CREDENTIAL_SECRET"],
		},
	}
	if insecure, err := strconv.ParseBool(env["OS_INSECURE"]); err == nil {
		verify := !insecure
		cloud.Verify = &verify
	}
	return cloud
}
