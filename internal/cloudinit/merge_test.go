// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package cloudinit

import (
	"encoding/json"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// readBack returns the cloud-config that cloud-init would find.
func readBack(t *testing.T, data []byte) map[string]any {
	t.Helper()
	var file map[string]any
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatalf("not JSON: %v\n%s", err, data)
	}
	text, ok := file["cloud-init"].(string)
	if !ok || !strings.HasPrefix(text, "#cloud-config\n") {
		t.Fatalf("cloud-init would not take this for a cloud-config: %.100q", file["cloud-init"])
	}
	var config map[string]any
	if err := yaml.Unmarshal([]byte(text), &config); err != nil {
		t.Fatal(err)
	}
	return config
}

// checkScript fails unless the command runs the boot script.
func checkScript(t *testing.T, command any) {
	t.Helper()
	words, ok := command.([]any)
	if !ok || len(words) != 3 || words[0] != "sh" || words[1] != "-c" || words[2] != Script() {
		t.Errorf("the command does not run the boot script: %.200v", command)
	}
}

func TestVendordata(t *testing.T) {
	data, err := Vendordata()
	if err != nil {
		t.Fatal(err)
	}
	config := readBack(t, data)
	commands := config["runcmd"].([]any)
	if len(commands) != 1 || config["merge_how"] != mergeHow {
		t.Errorf("got %d commands, merge_how %v", len(commands), config["merge_how"])
	}
	checkScript(t, commands[0])
}

func TestMerge(t *testing.T) {
	own, err := Vendordata()
	if err != nil {
		t.Fatal(err)
	}
	wrap := func(text string) string { return `{"cloud-init": ` + string(mustJSON(text)) + `}` }
	for name, test := range map[string]struct {
		in        string
		commands  []string // after the boot script
		conflicts int
		check     func(t *testing.T, config map[string]any)
	}{
		"nothing there":          {in: `{}`},
		"another key":            {in: `{"region": "north", "n": 12345678901234567890}`},
		"own again":              {in: string(own)},
		"an empty cloud-config":  {in: wrap("#cloud-config\n")},
		"only comments":          {in: wrap("#cloud-config\n# nothing yet\n")},
		"a list with one part":   {in: `{"cloud-init": ["#cloud-config\nruncmd: [a]\n"]}`, commands: []string{"a"}},
		"commands":               {in: wrap("#cloud-config\nruncmd:\n- a\n- b\n"), commands: []string{"a", "b"}},
		"an older boot script":   {in: wrap("#cloud-config\nruncmd:\n- [sh, -c, \"#!/bin/sh\\n# muster-boot: old\\n\"]\n- a\n"), commands: []string{"a"}},
		"an older one as a text": {in: wrap("#cloud-config\nruncmd:\n- \"# muster-boot: old\"\n"), commands: nil},
		"merge_how is theirs": {in: wrap("#cloud-config\nmerge_how: list(append)+dict()\n"), conflicts: 1,
			check: func(t *testing.T, config map[string]any) {
				if config["merge_how"] != "list(append)+dict()" {
					t.Errorf("merge_how became %v", config["merge_how"])
				}
			}},
		"other keys stay": {in: wrap("#cloud-config\npackages: [vim]\nwrite_files:\n- path: /a\n  content: x\n"),
			check: func(t *testing.T, config map[string]any) {
				if len(config["packages"].([]any)) != 1 || len(config["write_files"].([]any)) != 1 {
					t.Errorf("lost something: %v", config)
				}
			}},
	} {
		t.Run(name, func(t *testing.T) {
			merged, conflicts, err := Merge([]byte(test.in))
			if err != nil {
				t.Fatal(err)
			}
			if len(conflicts) != test.conflicts {
				t.Errorf("conflicts: %q", conflicts)
			}
			config := readBack(t, merged)
			commands := config["runcmd"].([]any)
			checkScript(t, commands[0])
			if len(commands) != 1+len(test.commands) {
				t.Fatalf("commands: %v", commands)
			}
			for i, command := range test.commands {
				if commands[1+i] != command {
					t.Errorf("command %d is %v, want %s", 1+i, commands[1+i], command)
				}
			}
			if test.check != nil {
				test.check(t, config)
			}
			again, _, err := Merge(merged)
			if err != nil || string(again) != string(merged) {
				t.Errorf("merging again changes it: %v\n%s", err, again)
			}
		})
	}
}

func TestMergeKeepsOtherKeysAndTheirOrder(t *testing.T) {
	merged, _, err := Merge([]byte(`{"z": 12345678901234567890, "cloud-init": "#cloud-config\n# why\nruncmd: [a] # b\n", "a": {"x": "<&>"}}`))
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

func TestMergeBesideOtherKinds(t *testing.T) {
	own, err := CloudConfig()
	if err != nil {
		t.Fatal(err)
	}
	for name, in := range map[string]string{
		"script":             `{"cloud-init": "#!/bin/sh\ntrue\n"}`,
		"list":               `{"cloud-init": ["#!/bin/sh\ntrue\n", "#cloud-config\nruncmd: [a]\n"]}`,
		"list with the own":  `{"cloud-init": ["#!/bin/sh\ntrue\n", ` + string(mustJSON(own)) + `]}`,
		"template of jinja":  `{"cloud-init": "## template: jinja\n#cloud-config\nruncmd: [a]\n"}`,
		"nothing but spaces": `{"cloud-init": ""}`,
	} {
		t.Run(name, func(t *testing.T) {
			merged, _, err := Merge([]byte(in))
			if err != nil {
				t.Fatal(err)
			}
			entries, err := parseDocument(merged)
			if err != nil {
				t.Fatal(err)
			}
			value, _ := entries.get(key)
			parts, err := parseParts(value)
			if err != nil || parts[len(parts)-1] != own || strings.Count(string(merged), marker) != 1 {
				t.Errorf("the boot script is not there once, at the end: %v\n%s", err, merged)
			}
			again, _, err := Merge(merged)
			if err != nil || string(again) != string(merged) {
				t.Errorf("merging again changes it: %v\n%s", err, again)
			}
		})
	}
}

func TestMergeRefuses(t *testing.T) {
	for name, test := range map[string]struct{ in, want string }{
		"no JSON":          {"#cloud-config\n", "one JSON object"},
		"a list":           {"[]", "one JSON object"},
		"half":             {`{"a": 1`, "at byte"},
		"more":             {`{} {}`, "more after the end"},
		"a key twice":      {`{"a": 1, "a": 2}`, "comes twice"},
		"a number":         {`{"cloud-init": 1}`, "a text or a list of texts"},
		"no YAML":          {`{"cloud-init": "#cloud-config\na: [\n"}`, "not valid YAML"},
		"no mapping":       {`{"cloud-init": "#cloud-config\n- a\n"}`, "must be a mapping"},
		"runcmd is a text": {`{"cloud-init": "#cloud-config\nruncmd: reboot\n"}`, "line 2: runcmd is not of the kind"},
		"an alias":         {`{"cloud-init": "#cloud-config\na: &x [1]\nb: *x\n"}`, "line 3: the cloud-config has an alias"},
		"a YAML key twice": {`{"cloud-init": "#cloud-config\na: 1\na: 2\n"}`, `"a"`},
		"too long":         {strings.Repeat(" ", MaxSize+1), "has more than"},
		"too deep":         {`{"cloud-init": "#cloud-config\na: ` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + `\n"}`, "too deeply"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := Merge([]byte(test.in))
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
		"{}", string(own), `{"cloud-init": ["#!/bin/sh\n"]}`, `{"cloud-init": "#cloud-config\nruncmd: [a, [b, c]]\nmerge_how: x\n"}`,
		`{"cloud-init": "#cloud-config\na: &x {b: *x}\n"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		merged, _, err := Merge(in)
		if err != nil {
			return
		}
		again, _, err := Merge(merged)
		if err != nil || string(again) != string(merged) {
			t.Errorf("merging again changes it: %v\n%s\n%s", err, merged, again)
		}
	})
}
