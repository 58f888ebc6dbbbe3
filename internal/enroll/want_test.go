// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"fmt"
	"strings"
	"testing"

	"github.com/muster-cloud/muster/internal/problem"
)

func TestReadServices(t *testing.T) {
	const fqdn = "web.example.test"
	own := func(name, host string) service { return service{Name: name, Host: host} }
	for _, test := range []struct {
		name, key, value string
		want             []service
	}{
		{"managed, own", "managed_service_x", "HTTP/web.example.test", []service{own("HTTP", fqdn)}},
		{"managed, capitals and dot", "managed_service_", "HTTP/WEB.Example.test.", []service{own("HTTP", fqdn)}},
		{"managed, below", "managed_service_x", "HTTP/www.web.example.test", []service{own("HTTP", "www.web.example.test")}},
		{"managed, network", "managed_service_x", "ovn_controller/web.net.example.test", []service{own("ovn_controller", "web.net.example.test")}},
		{"managed, elsewhere", "managed_service_x", "haproxy/vip.example.test", []service{{"haproxy", "vip.example.test", true}}},
		{"managed, other domain", "managed_service_x", "haproxy/vip.example.org", []service{{"haproxy", "vip.example.org", true}}},
		{"compact", "compact_service_HTTP", `["internalapi", "CtlPlane"]`,
			[]service{own("HTTP", "web.internalapi.example.test"), own("HTTP", "web.ctlplane.example.test")}},
		{"compact, lines", "compact_service_libvirt-vnc", "[\n  \"a\"\r\n]\n", []service{own("libvirt-vnc", "web.a.example.test")}},
		{"compact, nothing", "compact_service_HTTP", `[]`, []service{}},
		{"older compact", "compact_services", `{"b": ["x"], "a": ["x", "y"]}`,
			[]service{own("a", "web.x.example.test"), own("a", "web.y.example.test"), own("b", "web.x.example.test")}},
		{"older compact, nothing", "compact_services", `{}`, nil},
		{"other metadata", "compact_servicesx", `junk`, nil},
		{"other case", "Managed_service_x", `junk`, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := readServices(fqdn, test.key, test.value)
			must(t, err)
			equal(t, got, test.want)
		})
	}
}

func TestMalformedServices(t *testing.T) {
	for _, test := range []struct{ name, key, value string }{
		{"no slash", "managed_service_x", "HTTP"},
		{"empty", "managed_service_x", ""},
		{"no service", "managed_service_x", "/web.example.test"},
		{"no host", "managed_service_x", "HTTP/"},
		{"short host", "managed_service_x", "HTTP/web"},
		{"realm", "managed_service_x", "HTTP/web.example.test@EXAMPLE.TEST"},
		{"two slashes", "managed_service_x", "HTTP/web/example.test"},
		{"blank", "managed_service_x", "HT TP/web.example.test"},
		{"Unicode", "managed_service_x", "HTTP/wéb.example.test"},
		{"line feed", "managed_service_x", "HTTP/web.example.test\n"},
		{"long service", "managed_service_x", strings.Repeat("a", 64) + "/web.example.test"},
		{"long host", "managed_service_x", "a/" + strings.Repeat("abc.", 70) + "test"},
		{"not JSON", "compact_service_HTTP", "internalapi"},
		{"an object", "compact_service_HTTP", `{"a": ["b"]}`},
		{"numbers", "compact_service_HTTP", `[1]`},
		{"text", "compact_service_HTTP", `"a"`},
		{"more text", "compact_service_HTTP", `["a"] ["b"]`},
		{"two labels", "compact_service_HTTP", `["a.b"]`},
		{"empty network", "compact_service_HTTP", `[""]`},
		{"numeric network", "compact_service_HTTP", `["10"]`},
		{"null network", "compact_service_HTTP", `[null]`},
		{"no name", "compact_service_", `["a"]`},
		{"bad name", "compact_service_a/b", `["a"]`},
		{"a list", "compact_services", `["a"]`},
		{"lists of lists", "compact_services", `{"a": [["b"]]}`},
		{"text for a list", "compact_services", `{"a": "b"}`},
		{"bad name inside", "compact_services", `{"a b": ["c"]}`},
		{"long value", "compact_services", strings.Repeat(" ", maxValue) + `{}`},
		{"many", "compact_service_HTTP", `["a"` + strings.Repeat(`, "a"`, maxServices) + `]`},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := readWant("web.example.test", request(1, "p", "web", test.key, test.value))
			refused(t, err, problem.Invalid, test.key)
		})
	}
	for _, name := range []string{"host", "HOST", "krbtgt", "kadmin"} {
		_, err := readWant("web.example.test", request(1, "p", "web", "managed_service_x", name+"/web.example.test"))
		refused(t, err, problem.Forbidden, "managed_service_x")
	}
}

// TestWantIsBounded asks for the most that there may be, with the longest names, and sees it recorded and read.
func TestWantIsBounded(t *testing.T) {
	domain := strings.Repeat(strings.Repeat("d", 63)+".", 2) + strings.Repeat("e", 59)
	fqdn := strings.Repeat("a", 2) + "." + domain
	req := request(1, "p", "web", keyLocation, strings.Repeat("l", 255))
	for n := range maxServices {
		req.Metadata[fmt.Sprint("compact_service_", strings.Repeat("s", 60), n%10)] = `["x"` + strings.Repeat(`, "x"`, n%3) + `]`
		req.Metadata[fmt.Sprint("managed_service_", n)] = fmt.Sprintf("%s%03d/%s.%s", strings.Repeat("s", 60), n, strings.Repeat("n", 60), fqdn)
	}
	_, err := readWant(fqdn, req)
	refused(t, err, problem.Invalid, "more than 200 services")
	for key := range req.Metadata {
		if strings.HasPrefix(key, prefixCompact) {
			delete(req.Metadata, key)
		}
	}
	w, err := readWant(fqdn, req)
	must(t, err)
	text, err := w.encode()
	must(t, err)
	if len(w.Services) != maxServices || len(text) > 131072 {
		t.Errorf("%d services, %d bytes", len(w.Services), len(text))
	}
	again, err := decodeWant(text)
	must(t, err)
	equal(t, again, w)
}

// FuzzReadServices sees that any metadata is refused, or asks for entries that FreeIPA takes.
func FuzzReadServices(f *testing.F) {
	f.Add("managed_service_x", "HTTP/web.example.test")
	f.Add("compact_service_HTTP", `["internalapi", "ctlplane"]`)
	f.Add("compact_services", `{"HTTP": ["internalapi"], "mysql": []}`)
	f.Add("managed_service_x", "host/\x00@/")
	f.Add("compact_service_\xff", `["\ud800"]`)
	f.Fuzz(func(t *testing.T, key, value string) {
		const fqdn = "web.example.test"
		w, err := readWant(fqdn, Request{Metadata: map[string]string{key: value}})
		if err != nil {
			return
		}
		for _, v := range w.Services {
			if reason := badHost(v.Host); reason != "" || v.Name == "" || len(v.Name) > maxComponent || strings.ContainsAny(v.Name, "/@ ") {
				t.Errorf("%q: %q: %+v %s", key, value, v, reason)
			}
			if v.Shared == isOwn(fqdn, v.Host) {
				t.Errorf("%q: %q: %+v", key, value, v)
			}
		}
		text, err := w.encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := decodeWant(text)
		if all, added := w.more(again); err != nil || len(added.Services) > 0 || len(all.Services) != len(w.Services) {
			t.Errorf("%q: read again: %+v, %v", text, again, err)
		}
	})
}
