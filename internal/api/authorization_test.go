// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/crypto/ssh"

	"github.com/muster-cloud/muster/internal/agentapi"
	"github.com/muster-cloud/muster/internal/api"
	"github.com/muster-cloud/muster/internal/api/apitest"
	"github.com/muster-cloud/muster/internal/api/description"
	"github.com/muster-cloud/muster/internal/api/health"
	"github.com/muster-cloud/muster/internal/api/instance"
	"github.com/muster-cloud/muster/internal/api/operator"
	"github.com/muster-cloud/muster/internal/api/tatu"
	"github.com/muster-cloud/muster/internal/api/vendordata"
	"github.com/muster-cloud/muster/internal/converge"
	"github.com/muster-cloud/muster/internal/enroll"
)

// callers are the columns of the table. The objects are in project demo, the
// certificates alice's, who is the owner; member is another member of demo.
var callers = []string{
	"none", "bad", "expired", "stranger", "other manager", "member", "owner", "manager", "service", "admin", "system",
}

// anyone and signedIn are rows where the caller does not matter.
const (
	anyone   = "200 200 200 200 200 200 200 200 200 200 200"
	signedIn = "401 401 401 200 200 200 200 200 200 200 200"
	// inProject needs a token of some project; what is listed differs.
	inProject = "401 401 401 200 200 200 200 200 200 200 403"
)

// ask is one call on an object that was made for it.
type ask struct {
	method, path, body string
	headers            []string
}

// calls are the rows: what is asked, and what each caller is answered.
var calls = []struct {
	operation string // and a remark after a blank
	make      func(w *world) ask
	//    none bad exp str otm mem own man srv adm sys
	want string
	// seen are the callers whose list holds the object made; nil: no list.
	seen []string
}{
	{"listVersions", at("GET", "/"), anyone, nil},
	{"showVersion", at("GET", "/v1"), anyone, nil},
	{"showAlive", at("GET", "/healthz"), anyone, nil},
	{"showReady", at("GET", "/readyz"), anyone, nil},
	{"showMetrics", at("GET", "/metrics"), anyone, nil},
	{"showDescription", at("GET", "/openapi.json"), anyone, nil},
	{"showPage", at("GET", "/docs"), anyone, nil},
	{"listPATs", at("GET", "/v1/pats"), signedIn, nil},

	{"createAuthority that is there", func(w *world) ask { return ask{"POST", "/v1/authorities", object("auth_id", w.demo), nil} },
		"401 401 401 403 403 403 403 409 403 409 409", nil},
	{"listAuthorities", at("GET", "/v1/authorities"), inProject, nil},
	{"listAuthorities of all", at("GET", "/v1/authorities", "X-Auth-All-Projects: True"),
		"401 401 401 403 403 403 403 403 403 200 200", nil},
	{"listAuthorities of demo", inDemo("GET", "/v1/authorities"), "401 401 401 403 403 403 403 403 403 200 200", nil},
	{"showAuthority", demoPath("GET", "/v1/authorities/%s"), "401 401 401 403 403 200 200 200 403 200 200", nil},
	{"listGenerations", demoPath("GET", "/v1/authorities/%s/generations"), "401 401 401 403 403 200 200 200 403 200 200", nil},

	{"createGeneration", func(w *world) ask {
		return ask{"POST", "/v1/authorities/" + w.demo + "/generations", object("role", "host"), nil}
	}, "401 401 401 403 403 403 403 201 403 201 201", nil},
	{"retireGeneration that is retired, or never was", demoPath("DELETE", "/v1/authorities/%s/generations/user/9"),
		"401 401 401 403 403 403 403 404 403 404 404", nil},
	{"retireGeneration that signs", demoPath("DELETE", "/v1/authorities/%s/generations/user/1"),
		"401 401 401 403 403 403 403 409 403 409 409", nil},

	{"createHostCerts", func(w *world) ask {
		id, token := w.instance()
		return ask{"POST", agentapi.PathHostCerts, object("token", token, "host_id", id, "pub_keys", []string{line(newKey(w.t))}), nil}
	}, anyone, nil},
	{"createChallenge", at("POST", agentapi.PathChallenges), anyone, nil},
	{"renewHostCerts", func(w *world) ask {
		return w.certified().ask(agentapi.PathRenew, "pub_keys", []string{line(newKey(w.t))})
	}, anyone, nil},
	{"showState", func(w *world) ask { return w.certified().ask(agentapi.PathState) }, anyone, nil},
	{"reportEnrolment that was never asked for", func(w *world) ask {
		return w.certified().ask(agentapi.PathEnrolment, "outcome", "enrolled")
	}, "404 404 404 404 404 404 404 404 404 404 404", nil},
	{"showProgram", at("GET", "/noauth/agent/muster-agent-linux-amd64"), anyone, nil},

	{"createUserCert for alice in demo", func(w *world) ask {
		return ask{"POST", "/v1/usercerts", object("user_id", w.users["alice"], "auth_id", w.demo, "pub_key", line(newKey(w.t))), nil}
	}, "401 401 401 403 403 403 201 403 403 201 201", nil},
	{"createUserCert for alice in other, where she has no role", func(w *world) ask {
		return ask{"POST", "/v1/usercerts", object("user_id", w.users["alice"], "auth_id", w.other, "pub_key", line(newKey(w.t))), nil}
	}, "401 401 401 403 403 403 403 403 403 403 403", nil},
	{"listUserCerts", madeUserCert("GET", "/v1/usercerts"), inProject, []string{"owner", "manager"}},
	{"listUserCerts of all", madeUserCert("GET", "/v1/usercerts", "X-Auth-All-Projects: True"),
		"401 401 401 403 403 403 403 403 403 200 200", []string{"admin", "system"}},
	{"listUserCerts of demo", inDemo("GET", "/v1/usercerts"), "401 401 401 403 403 403 403 403 403 200 200", nil},
	{"showUserCert", func(w *world) ask {
		serial, _ := w.userCert()
		return ask{"GET", fmt.Sprint("/v1/usercerts/", serial), "", nil}
	}, "401 401 401 404 404 404 200 200 404 200 200", nil},
	{"showUserCertByKey", func(w *world) ask {
		_, cert := w.userCert()
		return ask{"GET", fmt.Sprint("/v1/usercerts/", w.users["alice"], "/", cert["fingerprint"]), "", nil}
	}, "401 401 401 404 404 404 200 200 404 200 200", nil},

	{"listHosts", madeInstance("GET", "/v1/hosts"), inProject, []string{"member", "owner", "manager"}},
	{"listHosts of all", madeInstance("GET", "/v1/hosts", "X-Auth-All-Projects: True"),
		"401 401 401 403 403 403 403 403 403 200 200", []string{"admin", "system"}},
	{"listHosts of demo", inDemo("GET", "/v1/hosts"), "401 401 401 403 403 403 403 403 403 200 200", nil},
	{"showHost", func(w *world) ask { id, _ := w.instance(); return ask{"GET", "/v1/hosts/" + id, "", nil} },
		"401 401 401 404 404 200 200 200 404 200 200", nil},
	{"deleteHost", func(w *world) ask { id, _ := w.instance(); return ask{"DELETE", "/v1/hosts/" + id, "", nil} },
		"401 401 401 403 403 403 403 403 204 204 204", nil},
	{"deleteHost that is not there", func(*world) ask { return ask{"DELETE", "/v1/hosts/" + newID(), "", nil} },
		"401 401 401 403 403 403 403 403 404 404 404", nil},
	{"createHostToken", func(w *world) ask {
		return ask{"POST", "/v1/hosttokens", object("host_id", newID(), "auth_id", w.demo, "hostname", "web1"), nil}
	}, "401 401 401 403 403 403 403 403 201 201 201", nil},
	{"renewHostToken that is good still", func(w *world) ask { id, _ := w.instance(); return ask{"POST", "/v1/hosts/" + id + "/token", "", nil} },
		"401 401 401 403 403 403 403 403 403 200 200", nil},
	{"renewHostToken", func(w *world) ask { return ask{"POST", "/v1/hosts/" + w.certified().id + "/token", "", nil} },
		"401 401 401 403 403 403 403 403 403 201 201", nil},
	{"renewHostToken of an instance that is not there", func(*world) ask { return ask{"POST", "/v1/hosts/" + newID() + "/token", "", nil} },
		"401 401 401 403 403 403 403 403 403 404 404", nil},
	{"createVendordataForTatu", func(w *world) ask {
		return ask{"POST", "/v1/novavendordata", object("instance-id", newID(), "project-id", w.demo, "hostname", "web1"), nil}
	}, "401 401 401 403 403 403 403 403 201 201 201", nil},
	{"createVendordata", func(w *world) ask {
		return ask{"POST", "/v1/vendordata", object("instance-id", newID(), "project-id", w.demo, "hostname", "web1"), nil}
	}, "401 401 401 403 403 403 403 403 200 200 200", nil},
	{"join", func(w *world) ask { return ask{"POST", "/v1", enrolling(newID(), w.demo), nil} },
		"401 401 401 403 403 403 403 403 200 200 200", nil},
	{"createVendordata with enrolment", func(w *world) ask { return ask{"POST", "/v1/vendordata", enrolling(newID(), w.demo), nil} },
		"401 401 401 403 403 403 403 403 200 200 200", nil},
	{"listEnrolments", madeEnrolment("GET", "/v1/enrolments"), inProject, []string{"member", "owner", "manager"}},
	{"listEnrolments of all", madeEnrolment("GET", "/v1/enrolments?state=created", "X-Auth-All-Projects: True"),
		"401 401 401 403 403 403 403 403 403 200 200", []string{"admin", "system"}},
	{"listEnrolments of demo", inDemo("GET", "/v1/enrolments"), "401 401 401 403 403 403 403 403 403 200 200", nil},
	{"showEnrolment", func(w *world) ask { return ask{"GET", "/v1/enrolments/" + w.enrolment(), "", nil} },
		"401 401 401 403 403 200 200 200 403 200 200", nil},
	{"showEnrolment that is not there", func(*world) ask { return ask{"GET", "/v1/enrolments/" + newID(), "", nil} },
		"401 401 401 403 403 403 403 403 403 404 404", nil},
	{"retryEnrolment that needs none", func(w *world) ask { return ask{"POST", "/v1/enrolments/" + w.enrolment() + "/retry", "", nil} },
		"401 401 401 403 403 403 403 409 403 409 409", nil},
	{"rebuildEnrolment", func(w *world) ask { return ask{"POST", "/v1/enrolments/" + w.enrolment() + "/rebuild", "", nil} },
		"401 401 401 403 403 403 403 200 403 200 200", nil},
	{"adoptEnrolment that needs none", func(w *world) ask { return ask{"POST", "/v1/enrolments/" + w.enrolment() + "/adopt", "", nil} },
		"401 401 401 403 403 403 403 403 403 409 409", nil},
	{"deleteHost that is only enrolled", func(w *world) ask { return ask{"DELETE", "/v1/hosts/" + w.enrolment(), "", nil} },
		"401 401 401 403 403 403 403 403 204 204 204", nil},
	{"createHostCert", certOrder("/v1/hostcerts"), anyone, nil},
	{"createHostCertAtBoot", certOrder("/noauth/hostcerts"), anyone, nil},
	{"listHostCerts", madeHostCert("GET", "/v1/hostcerts"), inProject, []string{"member", "owner", "manager"}},
	{"listHostCerts of all", madeHostCert("GET", "/v1/hostcerts", "X-Auth-All-Projects: True"),
		"401 401 401 403 403 403 403 403 403 200 200", []string{"admin", "system"}},
	{"showHostCert", func(w *world) ask {
		cert := w.hostCert()
		return ask{"GET", fmt.Sprint("/v1/hostcerts/", cert["host_id"], "/", cert["fingerprint"]), "", nil}
	}, "401 401 401 404 404 200 200 200 404 200 200", nil},

	{"showRevokedKeys", demoPath("GET", "/v1/revokeduserkeys/%s"), signedIn, nil},
	{"showRevokedKeysAtBoot", demoPath("GET", "/noauth/revokeduserkeys/%s"), anyone, nil},
	{"revokeUserCert", func(w *world) ask {
		serial, _ := w.userCert()
		return ask{"POST", "/v1/revokeduserkeys/" + w.demo, object("serial", serial), nil}
	}, "401 401 401 403 403 403 200 200 403 200 200", nil},
	{"revokeUserCert under another project", func(w *world) ask {
		serial, _ := w.userCert()
		return ask{"POST", "/v1/revokeduserkeys/" + w.other, object("serial", serial), nil}
	}, "401 401 401 400 400 403 403 403 403 400 400", nil},
	{"revoke a serial", func(w *world) ask {
		serial, _ := w.userCert()
		return ask{"POST", "/v1/revocations", object("auth_id", w.demo, "serial", serial), nil}
	}, "401 401 401 403 403 403 200 200 403 200 200", nil},
	{"revoke a serial under another project", func(w *world) ask {
		serial, _ := w.userCert()
		return ask{"POST", "/v1/revocations", object("auth_id", w.other, "serial", serial), nil}
	}, "401 401 401 403 404 403 403 403 403 404 404", nil},
	{"revoke a host's serial", func(w *world) ask {
		return ask{"POST", "/v1/revocations", object("auth_id", w.demo, "serial", w.hostCert()["serial"]), nil}
	}, "401 401 401 403 403 403 403 200 403 200 200", nil},
	{"revoke a serial that nobody has", func(w *world) ask {
		return ask{"POST", "/v1/revocations", object("auth_id", w.demo, "serial", 999999999), nil}
	}, "401 401 401 403 403 403 403 404 403 404 404", nil},
	{"revoke all of alice in demo", func(w *world) ask {
		w.userCert()
		return ask{"POST", "/v1/revocations", object("auth_id", w.demo, "user_id", w.users["alice"]), nil}
	}, "401 401 401 403 403 403 200 200 403 200 200", nil},
	{"revoke alice's key", func(w *world) ask {
		_, cert := w.userCert()
		parsed, _, _, _, err := ssh.ParseAuthorizedKey([]byte(cert["cert"].(string)))
		if err != nil {
			w.t.Fatal(err)
		}
		return ask{"POST", "/v1/revocations", object("auth_id", w.demo, "pub_key", line(parsed.(*ssh.Certificate).Key)), nil}
	}, "401 401 401 403 403 403 403 200 403 200 200", nil},
	{"revoke a key ID", func(w *world) ask {
		return ask{"POST", "/v1/revocations", object("auth_id", w.demo, "key_id", "alice_"+newID()), nil}
	}, "401 401 401 403 403 403 403 200 403 200 200", nil},
	{"revoke a generation that is not there", func(w *world) ask {
		return ask{"POST", "/v1/revocations", object("auth_id", w.demo, "generation_id", newID()), nil}
	}, "401 401 401 403 403 403 403 403 403 404 404", nil},
	{"revoke a user everywhere", func(*world) ask { return ask{"POST", "/v1/revocations", object("user_id", newID()), nil} },
		"401 401 401 403 403 403 403 403 403 200 200", nil},
	{"listRevocations", demoPath("GET", "/v1/revocations?auth_id=%s"), "401 401 401 403 403 403 403 200 403 200 200", nil},

	{"listAudit", at("GET", "/v1/audit"), "401 401 401 403 200 403 403 200 403 200 403", nil},
	{"listAudit of all", at("GET", "/v1/audit", "X-Auth-All-Projects: True"), "401 401 401 403 403 403 403 403 403 200 200", nil},
	{"listEvents", at("GET", "/v1/events"), "401 401 401 403 403 403 403 403 403 200 200", nil},
	{"listAudit of demo", inDemo("GET", "/v1/audit"), "401 401 401 403 403 403 403 403 403 200 200", nil},

	{"listQueue", at("GET", "/v1/queue"), "401 401 401 403 403 403 403 403 403 200 200", nil},
	{"reconcile, only to look", func(*world) ask { return ask{"POST", "/v1/reconcile", object("dry_run", true), nil} },
		"401 401 401 403 403 403 403 403 403 200 200", nil},
	{"reconcile", func(*world) ask { return ask{"POST", "/v1/reconcile", object("dry_run", false), nil} },
		"401 401 401 403 403 403 403 403 403 200 200", nil},
}

func at(method, path string, headers ...string) func(*world) ask {
	return func(*world) ask { return ask{method, path, "", headers} }
}

func inDemo(method, path string) func(*world) ask {
	return func(w *world) ask { return ask{method, path, "", []string{"X-Auth-Sudo-Project-ID: " + w.demo}} }
}

func demoPath(method, format string) func(*world) ask {
	return func(w *world) ask { return ask{method, fmt.Sprintf(format, w.demo), "", nil} }
}

func madeUserCert(method, path string, headers ...string) func(*world) ask {
	return func(w *world) ask { w.userCert(); return ask{method, path, "", headers} }
}

func madeInstance(method, path string, headers ...string) func(*world) ask {
	return func(w *world) ask { w.instance(); return ask{method, path, "", headers} }
}

func madeEnrolment(method, path string, headers ...string) func(*world) ask {
	return func(w *world) ask { w.enrolment(); return ask{method, path, "", headers} }
}

func madeHostCert(method, path string, headers ...string) func(*world) ask {
	return func(w *world) ask { w.hostCert(); return ask{method, path, "", headers} }
}

func certOrder(path string) func(*world) ask {
	return func(w *world) ask {
		id, token := w.instance()
		return ask{"POST", path, object("token_id", token, "host_id", id, "pub_key", line(newKey(w.t))), nil}
	}
}

// TestAuthorization tries every call as everybody.
func TestAuthorization(t *testing.T) { everywhere(t, testAuthorization) }

func testAuthorization(t *testing.T, w *world) {
	for _, project := range []string{w.demo, w.other} {
		w.do("admin", "POST", "/v1/authorities", object("auth_id", project)).want(201)
	}
	for _, call := range calls {
		for i, want := range strings.Fields(call.want) {
			asked := call.make(w)
			got := w.do(callers[i], asked.method, asked.path, asked.body, asked.headers...)
			if fmt.Sprint(got.Status) != want {
				t.Errorf("%s as %s: %d, want %s: %s", call.operation, callers[i], got.Status, want, got.Text)
			}
			if sees := got.Status == 200 && strings.Contains(got.Text, w.demo); call.seen != nil && sees != slices.Contains(call.seen, callers[i]) {
				t.Errorf("%s as %s: holds an object of demo's: %v\n%s", call.operation, callers[i], sees, got.Text)
			}
		}
	}
	var asked []string
	for _, path := range apitest.Load(t).Paths.Map() {
		for _, operation := range path.Operations() {
			asked = append(asked, operation.OperationID)
		}
	}
	for _, id := range asked {
		if w.checks.Exercised()[id] == nil {
			t.Errorf("operation %s is described, and has no row", id)
		}
	}
}

// TestDescribed holds the registered routes and the described ones together.
func TestDescribed(t *testing.T) {
	described, err := description.New("v0.0.0")
	if err != nil {
		t.Fatal(err)
	}
	guard := api.NewGuard(nil, nil, nil, nil)
	router := api.NewRouter(api.RouterConfig{Logger: slog.New(slog.DiscardHandler), Metrics: api.NewMetrics(prometheus.NewRegistry())},
		tatu.New(tatu.Config{Guard: guard}), vendordata.New(vendordata.Config{Guard: guard}), vendordata.NewJoin(guard, nil), instance.New(instance.Config{}),
		operator.New(operator.Config{Guard: guard, Enrolments: (*enroll.Service)(nil), Comparison: (*converge.Comparison)(nil)}), health.New(nil), described)
	registered := map[string]bool{"GET /metrics": true} // by the server
	for _, pattern := range router.Patterns() {
		registered[strings.NewReplacer("{$}", "", "...}", "}").Replace(pattern)] = true
	}
	want := map[string]bool{}
	for path, item := range apitest.Load(t).Paths.Map() {
		for method, operation := range item.Operations() {
			want[method+" "+path] = true
			if operation.Extensions["x-unversioned"] == true {
				want[method+" "+strings.TrimPrefix(path, "/v1")] = true
			}
		}
	}
	for _, pattern := range slices.Sorted(maps.Keys(registered)) {
		if !want[pattern] {
			t.Errorf("%s is registered and not described", pattern)
		}
	}
	for _, pattern := range slices.Sorted(maps.Keys(want)) {
		if !registered[pattern] {
			t.Errorf("%s is described and not registered", pattern)
		}
	}
}
