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
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/config/clouds"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"
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
		return nil, loginError(err)
	}
	c.token = provider.Token()
	if result, ok := provider.GetAuthResult().(tokens.CreateResult); ok {
		if project, err := result.ExtractProject(); err == nil && project != nil {
			c.projectID = project.ID
		}
	}
	address := cfg.URL
	if address == "" {
		endpoint.ApplyDefaults(serviceType)
		if address, err = provider.EndpointLocator(endpoint); err != nil {
			return nil, fmt.Errorf("the catalogue of Keystone has no service of type %s for you; give Muster's address with --url", serviceType)
		}
	}
	c.base, err = baseURL(address)
	return c, err
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
func loginError(err error) error {
	var answer gophercloud.ErrUnexpectedResponseCode
	switch {
	case !errors.As(err, &answer):
		return fmt.Errorf("log in to Keystone: %w", err)
	case answer.Actual == http.StatusUnauthorized:
		return errors.New("log in to Keystone: it refuses (401); see user, password, project and their domains")
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

// credentials come from clouds.yaml, or from the environment written in its form.
func credentials(cfg Config) (gophercloud.AuthOptions, gophercloud.EndpointOpts, *tls.Config, error) {
	env := map[string]string{}
	for _, variable := range cfg.Environ {
		if name, value, ok := strings.Cut(variable, "="); ok {
			env[name] = value
		}
	}
	var options []clouds.ParseOption
	if name := cmp.Or(cfg.Cloud, env["OS_CLOUD"]); name != "" {
		options = append(options, clouds.WithCloudName(name))
		if file := env["OS_CLIENT_CONFIG_FILE"]; file != "" {
			options = append(options, clouds.WithLocations(file))
		}
	} else {
		if env["OS_AUTH_URL"] == "" {
			none := errors.New("who are you? Set OS_CLOUD to a cloud of clouds.yaml, or OS_AUTH_URL and the other variables of an openrc file")
			return gophercloud.AuthOptions{}, gophercloud.EndpointOpts{}, nil, none
		}
		text, err := json.Marshal(clouds.Clouds{Clouds: map[string]clouds.Cloud{"environment": cloudOf(env)}})
		if err != nil {
			return gophercloud.AuthOptions{}, gophercloud.EndpointOpts{}, nil, err
		}
		// JSON is YAML.
		options = append(options, clouds.WithCloudName("environment"), clouds.WithCloudsYAML(bytes.NewReader(text)))
	}
	auth, endpoint, security, err := clouds.Parse(options...)
	if err != nil {
		return auth, endpoint, nil, fmt.Errorf("who are you? %w", err)
	}
	return auth, endpoint, security, nil
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
