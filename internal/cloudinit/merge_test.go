// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package cloudinit

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

// partsOf returns the parts that cloud-init would find.
func partsOf(t *testing.T, data []byte) []string {
	t.Helper()
	var value any
	if err := json.Unmarshal(data, &value); err != nil {
		t.Fatalf("%v\n%s", err, data)
	}
	if object, ok := value.(map[string]any); ok {
		value = object["cloud-init"]
	}
	switch value := value.(type) {
	case string:
		return []string{value}
	case []any:
		var parts []string
		for _, one := range value {
			parts = append(parts, one.(string))
		}
		return parts
	}
	t.Fatalf("cloud-init would find nothing in %s", data)
	return nil
}

// checkArchive fails unless the text is an archive of the boot script alone.
func checkArchive(t *testing.T, text string) {
	t.Helper()
	var found []part
	if !strings.HasPrefix(text, "#cloud-config-archive\n") {
		t.Errorf("cloud-init would not take this for an archive: %.100q", text)
	}
	if err := yaml.Unmarshal([]byte(text), &found); err != nil {
		t.Fatal(err)
	}
	if len(found) != 1 || found[0] != (part{"text/x-shellscript", Script()}) {
		t.Errorf("the archive does not run the boot script: %.200v", found)
	}
}

func TestVendordata(t *testing.T) {
	data, err := Vendordata()
	if err != nil {
		t.Fatal(err)
	}
	parts := partsOf(t, data)
	if len(parts) != 1 {
		t.Fatalf("%d parts", len(parts))
	}
	checkArchive(t, parts[0])
}

func TestMerge(t *testing.T) {
	own, err := Vendordata()
	if err != nil {
		t.Fatal(err)
	}
	old := "#cloud-config\nruncmd:\n- [sh, -c, \"#!/bin/sh\\n# muster-boot: old\\n\"]\n"
	wrap := func(text string) string { return `{"cloud-init": ` + string(mustJSON(text)) + `}` }
	for name, test := range map[string]struct {
		in   string
		want []string // before the boot script
	}{
		"nothing there":          {in: `{}`},
		"another key":            {in: `{"region": "north", "n": 12345678901234567890}`},
		"own again":              {in: string(own)},
		"an empty text":          {in: wrap("")},
		"a cloud-config":         {in: wrap("#cloud-config\n# why\nruncmd: [a] # b\n"), want: []string{"#cloud-config\n# why\nruncmd: [a] # b\n"}},
		"an alias":               {in: wrap("#cloud-config\na: &x [1]\nb: *x\n"), want: []string{"#cloud-config\na: &x [1]\nb: *x\n"}},
		"an older one":           {in: wrap(old)},
		"beside others":          {in: wrap(old + "- a\npackages: [vim]\n"), want: []string{"#cloud-config\nruncmd:\n  - a\npackages: [vim]\n"}},
		"an older one as a text": {in: wrap("#cloud-config\nruncmd:\n- \"# muster-boot: old\"\n")},
		"a script":               {in: wrap("#!/bin/sh\ntrue\n"), want: []string{"#!/bin/sh\ntrue\n"}},
		"a template of jinja":    {in: wrap("## template: jinja\n#cloud-config\n"), want: []string{"## template: jinja\n#cloud-config\n"}},
		"a list": {in: `{"cloud-init": ["#!/bin/sh\n", ` + string(mustJSON(old)) + `, "#cloud-config\nruncmd: [a]\n"]}`,
			want: []string{"#!/bin/sh\n", "#cloud-config\nruncmd: [a]\n"}},
		// cloud-init's sources.convert_vendordata takes these, too.
		"nothing but a list": {in: ` ["#!/bin/sh\n", ` + string(mustJSON(old)) + `]`, want: []string{"#!/bin/sh\n"}},
		"nothing but a text": {in: string(mustJSON("#cloud-config\n# why\n")), want: []string{"#cloud-config\n# why\n"}},
		"an empty list":      {in: "[]"},
		"no text":            {in: `""`},
	} {
		t.Run(name, func(t *testing.T) {
			merged, err := Merge([]byte(test.in))
			if err != nil {
				t.Fatal(err)
			}
			parts := partsOf(t, merged)
			checkArchive(t, parts[len(parts)-1])
			if others := parts[:len(parts)-1]; !slices.Equal(others, test.want) {
				t.Errorf("beside the boot script there is %q, want %q", others, test.want)
			}
			again, err := Merge(merged)
			if err != nil || string(again) != string(merged) {
				t.Errorf("merging again changes it: %v\n%s", err, again)
			}
		})
	}
}

func TestMergeKeepsOtherKeysAndTheirOrder(t *testing.T) {
	merged, err := Merge([]byte(`{"z": 12345678901234567890, "cloud-init": "#cloud-config\n# why\nruncmd: [a] # b\n", "a": {"x": "<&>"}}`))
	if err != nil {
		t.Fatal(err)
	}
	text := string(merged)
	for _, want := range []string{"\"z\": 12345678901234567890,\n", `{` + "\n" + `    "x": "<&>"`, "# why", "# b"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is lost:\n%s", want, text)
		}
	}
	if !(strings.Index(text, `"z"`) < strings.Index(text, `"cloud-init"`) && strings.Index(text, `"cloud-init"`) < strings.Index(text, `"a"`)) {
		t.Errorf("another order:\n%s", text)
	}
}

func TestMergeConfig(t *testing.T) {
	own, err := CloudConfig()
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		in       string
		commands []string // after the boot script
	}{
		"nothing":     {in: "#cloud-config\n"},
		"own again":   {in: own},
		"commands":    {in: "#cloud-config\nruncmd:\n- a\n- b\n", commands: []string{"a", "b"}},
		"an older":    {in: "#cloud-config\nruncmd:\n- [sh, -c, \"# muster-boot: old\\n\"]\n- a\n", commands: []string{"a"}},
		"other keys":  {in: "#cloud-config\npackages: [vim]\n"},
		"no commands": {in: "#cloud-config\nruncmd: []\n"},
	} {
		t.Run(name, func(t *testing.T) {
			merged, err := MergeConfig([]byte(test.in))
			if err != nil {
				t.Fatal(err)
			}
			var config struct {
				RunCmd   []any
				Packages []string
			}
			if err := yaml.Unmarshal([]byte(merged), &config); err != nil || !IsCloudConfig(merged) {
				t.Fatalf("%v: %s", err, merged)
			}
			want := []any{[]any{"sh", "-c", Script()}}
			for _, command := range test.commands {
				want = append(want, command)
			}
			if diff := cmp.Diff(want, config.RunCmd); diff != "" {
				t.Error(diff)
			}
			if strings.Contains(test.in, "vim") != slices.Contains(config.Packages, "vim") {
				t.Errorf("the packages are %v", config.Packages)
			}
		})
	}
	for in, want := range map[string]string{
		"#!/bin/sh\n":                            "only a cloud-config",
		"#cloud-config\nruncmd: reboot\n":        "line 2: runcmd is no list",
		"#cloud-config\na: &x [1]\nb: *x\n":      "line 3: the cloud-config has an alias",
		"#cloud-config\nb: 1\na: {b: 1, b: 2}\n": "comes twice",
		"#cloud-config\na: " + strings.Repeat("[", 40) + strings.Repeat("]", 40): "too deeply",
	} {
		if _, err := MergeConfig([]byte(in)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: got %v, want something about %q", in, err, want)
		}
	}
}

func TestMergeRefuses(t *testing.T) {
	for name, test := range map[string]struct{ in, want string }{
		"no JSON":     {"#cloud-config\n", "one JSON object"},
		"numbers":     {"[1]", "must be one of texts"},
		"objects":     {`[{"type": "text/x-shellscript", "content": "x"}]`, "must be one of texts"},
		"half a list": {`["a"`, "not valid JSON"},
		"half a text": {`"a`, "not valid JSON"},
		"two lists":   {`[] []`, "not valid JSON"},
		"half":        {`{"a": 1`, "at byte"},
		"more":        {`{} {}`, "more after the end"},
		"a key twice": {`{"a": 1, "a": 2}`, "comes twice"},
		"a number":    {`{"cloud-init": 1}`, "a text or a list of texts"},
		"no YAML":     {`{"cloud-init": "#cloud-config\na: [\n"}`, "not valid YAML"},
		"no mapping":  {`{"cloud-init": "#cloud-config\n- a\n"}`, "must be a mapping"},
		"too long":    {strings.Repeat(" ", MaxSize+1), "has more than"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Merge([]byte(test.in))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want something about %q", err, test.want)
			}
		})
	}
}

func TestConvert(t *testing.T) {
	for _, text := range []string{
		"#cloud-config\n# a comment\nruncmd: [a]\n",
		"#!/bin/sh\necho \"<&>\"\n",
		"Content-Type: multipart/mixed; boundary=x\n",
	} {
		data, err := ToVendordata([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		back, err := FromVendordata(data)
		if err != nil || back != text {
			t.Errorf("there and back again: %q, %v", back, err)
		}
	}
	for _, in := range []string{`"#!/bin/sh\n"`, ` ["#!/bin/sh\n"]`, `{"cloud-init": ["#!/bin/sh\n"]}`} {
		if got, err := FromVendordata([]byte(in)); err != nil || got != "#!/bin/sh\n" {
			t.Errorf("%s: got %q, %v", in, got, err)
		}
	}
	// What the predecessors' own script wrote is read.
	if got, err := FromVendordata([]byte(`{"cloud-init": "#cloud-config\nmanage_etc_hosts: true\n"}`)); err != nil || !IsCloudConfig(got) {
		t.Errorf("got %q, %v", got, err)
	}
	for name, test := range map[string]struct {
		convert func([]byte) error
		in      string
	}{
		"text of no known kind": {func(b []byte) error { _, err := ToVendordata(b); return err }, "hello\n"},
		"bad YAML":              {func(b []byte) error { _, err := ToVendordata(b); return err }, "#cloud-config\na: [\n"},
		"without the key":       {func(b []byte) error { _, err := FromVendordata(b); return err }, `{"a": 1}`},
		"two parts":             {func(b []byte) error { _, err := FromVendordata(b); return err }, `{"cloud-init": ["a", "b"]}`},
		"a list of two":         {func(b []byte) error { _, err := FromVendordata(b); return err }, `["a", "b"]`},
	} {
		if test.convert([]byte(test.in)) == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzMerge(f *testing.F) {
	own, err := Vendordata()
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{
		"{}", string(own), `["#!/bin/sh\n"]`, `"#cloud-config\n"`, `{"cloud-init": ["#!/bin/sh\n"]}`, `{"cloud-init": "#cloud-config\nruncmd: [a, [b, c]]\nmerge_how: x\n"}`,
		`{"cloud-init": "#cloud-config\na: &x {b: *x}\n"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		merged, err := Merge(in)
		if err != nil {
			return
		}
		again, err := Merge(merged)
		if err != nil || string(again) != string(merged) {
			t.Errorf("merging again changes it: %v\n%s\n%s", err, merged, again)
		}
	})
}
