// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package enrolment

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/muster-cloud/muster/internal/devcloud/compute"
	"github.com/muster-cloud/muster/internal/devcloud/image"
	"github.com/muster-cloud/muster/test/deployment"
)

// A second instance of a name does not become the first one, in whatever
// project it is.
func TestNoTakeOver(t *testing.T) { everywhere(t, deployment.Options{}, testNoTakeOver) }

func testNoTakeOver(t *testing.T, s *site) {
	first := deployment.NewID()
	had := s.enrol(t, first, s.project, "web1")
	if had.Hostname != "web1.example.test" || had.Realm != "EXAMPLE.TEST" || len(had.OTP) != 32 {
		t.Fatalf("%+v", had)
	}
	for _, project := range []string{s.project, s.other} {
		s.refused(t, http.StatusConflict, "web1.example.test belongs to another instance", deployment.NewID(), project, "WEB1")
		s.refused(t, http.StatusConflict, "belongs to another instance", deployment.NewID(), project, "web1.example.test")
	}
	s.refused(t, http.StatusConflict, "belongs to another project", first, s.other, "web1")
	if again := s.enrol(t, first, s.project, "web1"); again != had {
		t.Errorf("the first one now gets %+v, had %+v", again, had)
	}
	if err := s.ipa.Join(had.Hostname, had.OTP); err != nil {
		t.Errorf("the first one cannot join: %v", err)
	}
}

// What Muster did not make is not touched: not at enrolment, and not when an
// instance of that name goes. Only an operator gives it to an instance.
func TestForeignEntries(t *testing.T) {
	everywhere(t, deployment.Options{Settings: deployment.Settings{"enroll": {"protected": "ldap*, *.infra.example.test"}}}, testForeignEntries)
}

func testForeignEntries(t *testing.T, s *site) {
	if err := s.ipa.AddHost("old.example.test", "its-own-password"); err != nil {
		t.Fatal(err)
	}
	before, _ := s.ipa.Host("old.example.test")

	for name, status := range map[string]int{"ldap1": http.StatusForbidden, "LDAP.example.test": http.StatusForbidden,
		"db.infra.example.test": http.StatusForbidden, "a.infra": http.StatusBadRequest} {
		instance := deployment.NewID()
		s.refused(t, status, "", instance, s.project, name)
		s.nova.Want(t, http.StatusNotFound, "DELETE", "/v1/hosts/"+instance, nil, nil)
	}
	for _, name := range []string{"ipa", "IPA", "ipa.example.test"} {
		instance := deployment.NewID()
		s.refused(t, http.StatusConflict, "did not make, and leaves it alone", instance, s.project, name)
		s.leave(t, instance)
		if !s.hasHost("ipa.example.test") {
			t.Fatal("FreeIPA's own host is gone")
		}
	}

	instance := deployment.NewID()
	s.refused(t, http.StatusConflict, "old.example.test", instance, s.project, "old")
	s.leave(t, instance)
	after, ok := s.ipa.Host("old.example.test")
	if !ok || after.HasPassword != before.HasPassword || s.ipa.Join("old.example.test", "its-own-password") != nil {
		t.Fatalf("the foreign entry changed: %+v", after)
	}

	adopter := deployment.NewID()
	s.refused(t, http.StatusConflict, "old.example.test", adopter, s.other, "old")
	manager := deployment.As(s.url, s.Person(t, "manager", "other", "manager"))
	manager.Want(t, http.StatusForbidden, "POST", "/v1/enrolments/"+adopter+"/adopt", nil, nil)
	s.operator.Want(t, http.StatusOK, "POST", "/v1/enrolments/"+adopter+"/adopt", nil, nil)
	if answer := s.enrol(t, adopter, s.other, "old"); answer.Hostname != "old.example.test" {
		t.Errorf("after the adoption: %+v", answer)
	}
	s.leave(t, adopter)
	if s.hasHost("old.example.test") {
		t.Error("the adopted entry outlives its instance")
	}
}

// A project's instances manage services of their own names alone, unless the
// operator says otherwise; and a refusal leaves nothing half-done.
func TestServicePrincipals(t *testing.T) {
	everywhere(t, deployment.Options{Settings: deployment.Settings{
		"project:shop":  {"allowed_classes": "web", "service_hosts": "*.vip.example.test"},
		"project:cloud": {"allowed_classes": "*", "any_service_host": "true"},
	}}, testServicePrincipals)
}

func testServicePrincipals(t *testing.T, s *site) {
	cloud := s.Project(t, "cloud")
	if err := s.ipa.AddHost("mail.example.test", ""); err != nil {
		t.Fatal(err)
	}
	before := len(s.ipa.Hosts())
	for reason, metadata := range map[string][]string{
		"ipa.example.test":      {"managed_service_x", "HTTP/ipa.example.test"},
		"mail.example.test":     {"managed_service_x", "imap/mail.example.test"},
		"other.example.test":    {"managed_service_x", "HTTP/api.vip.example.test", "managed_service_y", "HTTP/other.example.test"},
		"not allowed in":        {"ipa_hostclass", "db"},
		"managed_service_bad":   {"managed_service_bad", "no-slash"},
		"compact_service_HTTP":  {"compact_service_HTTP", `["internalapi"`},
		"compact_services":      {"compact_services", `{"HTTP": "internalapi"}`, "managed_service_x", "HTTP/api.vip.example.test"},
		"compact_service_mysql": {"compact_service_mysql", `["bad_network"]`},
	} {
		instance := deployment.NewID()
		status := http.StatusForbidden
		if strings.HasPrefix(reason, "managed_service_bad") || strings.HasPrefix(reason, "compact_") {
			status = http.StatusBadRequest
		}
		s.refused(t, status, reason, instance, s.project, "web1", metadata...)
		s.operator.Want(t, http.StatusNotFound, "GET", "/v1/enrolments/"+instance, nil, nil)
	}
	if now := len(s.ipa.Hosts()); now != before {
		t.Errorf("%d hosts, had %d", now, before)
	}

	web := deployment.NewID()
	s.enrol(t, web, s.project, "web1", "ipa_hostclass", "web", "managed_service_vip", "HTTP/api.vip.example.test",
		"compact_service_HTTP", `["internalapi", "ctlplane"]`, "compact_services", `{"mysql": ["internalapi"]}`)
	want := []string{"HTTP/api.vip.example.test", "HTTP/web1.ctlplane.example.test", "HTTP/web1.internalapi.example.test", "mysql/web1.internalapi.example.test"}
	if got := s.services("web1.example.test"); !slices.Equal(got, want) {
		t.Errorf("services: %v, want %v", got, want)
	}
	host, _ := s.ipa.Host("web1.example.test")
	if !slices.Equal(host.Attributes["userclass"], []string{"web"}) {
		t.Errorf("%+v", host)
	}
	controller := deployment.NewID()
	s.enrol(t, controller, cloud, "controller", "ipa_hostclass", "any", "managed_service_mail", "imap/mail.example.test")
	if got := s.services("controller.example.test"); !slices.Equal(got, []string{"imap/mail.example.test"}) {
		t.Errorf("services: %v", got)
	}

	s.leave(t, web)
	s.leave(t, controller)
	for _, fqdn := range []string{"web1.example.test", "web1.internalapi.example.test", "web1.ctlplane.example.test", "api.vip.example.test", "controller.example.test"} {
		if s.hasHost(fqdn) {
			t.Errorf("%s is still there", fqdn)
		}
	}
	if !s.hasHost("mail.example.test") {
		t.Error("a host that Muster did not make is gone")
	}
}

// Every replica answers the same one-time password, at whatever time, until
// the instance has used it.
func TestOneTimePasswordIsNotLost(t *testing.T) {
	for name, database := range map[string]func(testing.TB) string{"PostgreSQL": databases.PostgreSQL, "MariaDB": databases.MariaDB} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, deployment.Options{Database: database(t)})
			second := s.nova.At(s.Start(t).URL)
			instance := deployment.NewID()
			answers := make([]joining, 8)
			var calls sync.WaitGroup
			for i := range answers {
				client := []*deployment.Client{s.nova, second}[i%2]
				calls.Go(func() { answers[i] = s.awaitPassword(t, client, body(instance, s.project, "web1")) })
			}
			calls.Wait()
			for _, answer := range answers {
				if answer != answers[0] || len(answer.OTP) != 32 {
					t.Errorf("%+v and %+v", answers[0], answer)
				}
			}

			// A restart, and a restart of FreeIPA, change nothing.
			if err := s.replica.Stop(); err != nil {
				t.Fatal(err)
			}
			s.ipa.EndSessions()
			s.replica = s.Start(t)
			s.nova = s.nova.At(s.replica.URL)
			s.operator = s.operator.At(s.replica.URL)
			if answer := s.enrol(t, instance, s.project, "web1"); answer != answers[0] {
				t.Errorf("after a restart: %+v, want %+v", answer, answers[0])
			}
			if err := s.ipa.Join("web1.example.test", answers[0].OTP); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// An instance that is built anew joins again, and its old keytab is worth
// nothing any more.
func TestRebuild(t *testing.T) { everywhere(t, deployment.Options{}, testRebuild) }

func testRebuild(t *testing.T, s *site) {
	instance := deployment.NewID()
	before := s.enrol(t, instance, s.project, "web1")
	if err := s.ipa.Join(before.Hostname, before.OTP); err != nil {
		t.Fatal(err)
	}
	err := deployment.Await(t.Context(), func(context.Context) error {
		if answer := s.enrol(t, instance, s.project, "web1"); answer.OTP != "" {
			return errors.New("the instance has joined, and still gets a password")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	s.awaitState(t, instance, "enrolled")
	s.operator.Want(t, http.StatusOK, "POST", "/v1/enrolments/"+instance+"/rebuild", nil, nil)
	s.awaitState(t, instance, "created")
	if host, _ := s.ipa.Host(before.Hostname); host.HasKeytab || !host.HasPassword {
		t.Errorf("after the rebuild: %+v", host)
	}
	after := s.enrol(t, instance, s.project, "web1")
	if after.OTP == before.OTP || s.ipa.Join(before.Hostname, before.OTP) == nil {
		t.Error("the old password serves again")
	}
	if err := s.ipa.Join(after.Hostname, after.OTP); err != nil {
		t.Error(err)
	}
}

// While FreeIPA is away the boot goes on, everybody can see why there is no
// password, and the next read of the metadata after it is back has one.
func TestFailuresAreVisible(t *testing.T) {
	everywhere(t, deployment.Options{Settings: deployment.Settings{"enroll": {"answer_within": "500ms"}}}, testFailuresAreVisible)
}

func testFailuresAreVisible(t *testing.T, s *site) {
	s.FreeIPA.Shut()
	instance, found := s.boot(t, compute.Server{Name: "web1", ProjectID: s.project, Metadata: map[string]string{"ipa_enroll": "true"}})
	if found["token"] == nil || found["hostname"] != "web1.example.test" || found["ipaotp"] != nil {
		t.Fatalf("while FreeIPA is away: %v", found)
	}
	// The boot does not wait until the attempt has ended.
	record := s.await(t, instance, func(r record) bool { return r.State == "wanted" && r.Error != "" })
	if record.FQDN != "web1.example.test" {
		t.Errorf("%+v is another instance's", record)
	}
	var health map[string]string
	s.nova.Want(t, http.StatusOK, "GET", "/readyz", nil, &health)
	if health["ipa"] == "ok" || health["database"] != "ok" {
		t.Errorf("health: %v", health)
	}

	s.FreeIPA.Open()
	s.operator.Want(t, http.StatusOK, "POST", "/v1/enrolments/"+instance+"/retry", nil, nil)
	s.awaitState(t, instance, "created")
	answer := s.enrol(t, instance, s.project, "web1")
	if err := s.ipa.Join(answer.Hostname, answer.OTP); err != nil {
		t.Errorf("%+v: %v", answer, err)
	}
}

// on_failure = error lets Nova know.
func TestFailuresCanFailTheBoot(t *testing.T) {
	everywhere(t, deployment.Options{Settings: deployment.Settings{"enroll": {"answer_within": "500ms", "on_failure": "error"}}}, testFailuresCanFailTheBoot)
}

func testFailuresCanFailTheBoot(t *testing.T, s *site) {
	s.FreeIPA.Hang()
	instance := deployment.NewID()
	s.refused(t, http.StatusServiceUnavailable, "FreeIPA", instance, s.project, "web1")
	s.nova.Want(t, http.StatusServiceUnavailable, "POST", "/v1/vendordata", body(instance, s.project, "web1"), nil)
	s.FreeIPA.Open()
	s.awaitState(t, instance, "created")
	if answer := s.awaitPassword(t, s.nova, body(instance, s.project, "web1")); len(answer.OTP) != 32 {
		t.Errorf("%+v", answer)
	}
}

// The image asks in place of the instance, and tells the operating system.
// Each replica asks Glance once for a whole boot.
func TestImageAsks(t *testing.T) { everywhere(t, deployment.Options{}, testImageAsks) }

func testImageAsks(t *testing.T, s *site) {
	add := func(visibility, enroll string) string {
		id, err := s.Cloud.Images.Add(image.Image{Name: "web", Owner: s.other, Visibility: visibility,
			Properties: map[string]string{"ipa_enroll": enroll, "os_distro": "debian", "os_version": "12"}})
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	id, found := s.boot(t, compute.Server{Name: "web1", ProjectID: s.project, ImageID: add("private", "True")})
	if found["hostname"] != "web1.example.test" || found["token"] == nil {
		t.Errorf("%v", found)
	}
	host, _ := s.ipa.Host("web1.example.test")
	if !slices.Equal(host.Attributes["nsosversion"], []string{"debian 12"}) || s.Cloud.Images.Shown() > s.replicas {
		t.Errorf("%+v; Glance was asked %d times", host, s.Cloud.Images.Shown())
	}
	s.leave(t, id)
	for name, imageID := range map[string]string{"silent": add("public", "no"), "volume": ""} {
		if _, found := s.boot(t, compute.Server{Name: name, ProjectID: s.project, ImageID: imageID}); found["hostname"] != nil || found["token"] == nil {
			t.Errorf("%s: %v", name, found)
		}
	}
	gone := "4787d9c3-9dbe-4704-a3c9-3fad9c9a0a1d"
	_, found = s.boot(t, compute.Server{Name: "web3", ProjectID: s.project, ImageID: gone})
	if reason, _ := found["ipa_error"].(string); !strings.Contains(reason, "no such image") || found["token"] == nil {
		t.Errorf("an image that is gone: %v", found)
	}
}

// novajoin's port is open while instances are enrolled, and only then.
func TestListenerOfItsOwn(t *testing.T) {
	own := deployment.Settings{"listen:join": {"address": "127.0.0.1:0", "faces": "join"}}
	s := newSite(t, deployment.Options{Settings: own})
	var answer joining
	join := s.nova.At(s.replica.Server.URL("join"))
	join.Want(t, http.StatusOK, "POST", "/v1/", body(deployment.NewID(), s.project, "web1"), &answer)
	if answer.Hostname != "web1.example.test" {
		t.Errorf("%+v", answer)
	}
	for _, path := range []string{"/", "/v2", "/v1/hosts", "/nothing"} {
		var refusal struct {
			ItemNotFound struct {
				Code    int
				Message string
			}
		}
		answer := join.Want(t, http.StatusNotFound, "GET", path, nil, &refusal)
		if refusal.ItemNotFound.Code != http.StatusNotFound || refusal.ItemNotFound.Message == "" {
			t.Errorf("GET %s is not refused in novajoin's shape: %s", path, answer.Body)
		}
	}
	without := deployment.New(t, deployment.Options{Settings: own})
	replica := without.Start(t)
	if address := replica.Server.URL("join"); address != "" {
		t.Errorf("without enrolment, join is served at %s", address)
	}
	deployment.As(replica.URL, without.Nova(t)).Want(t, http.StatusMethodNotAllowed, "POST", "/v1/", body(deployment.NewID(), without.Project(t, "shop"), "web1"), nil)
}
