// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package ipa

import (
	"bufio"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
)

// recordedAnswers reads what a real FreeIPA 4.9.11 answered, one line each: {"command", "name", "answer"}.
func recordedAnswers(tb testing.TB) []recordedAnswer {
	tb.Helper()
	file, err := os.Open("testdata/answers.jsonl")
	if err != nil {
		tb.Fatal(err)
	}
	defer file.Close()
	var all []recordedAnswer
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var a recordedAnswer
		if err := json.Unmarshal(lines.Bytes(), &a); err != nil {
			tb.Fatal(err)
		}
		all = append(all, a)
	}
	if len(all) < 150 {
		tb.Fatalf("only %d answers", len(all))
	}
	return all
}

type recordedAnswer struct {
	Command string          `json:"command"`
	Name    string          `json:"name"`
	Answer  json.RawMessage `json:"answer"`
}

// TestRecordedAnswers reads every recorded answer as the client does: a refusal has its code, an entry its name.
func TestRecordedAnswers(t *testing.T) {
	for _, a := range recordedAnswers(t) {
		var plain struct {
			Error *struct {
				Code    Code
				Message string
			}
		}
		if err := json.Unmarshal(a.Answer, &plain); err != nil {
			t.Fatal(err)
		}
		raw, err := readAnswer(a.Answer, 0, Command{name: a.Command})
		if plain.Error != nil {
			if !errors.Is(err, plain.Error.Code) || !strings.Contains(err.Error(), plain.Error.Message) {
				t.Errorf("%s: %v, recorded %+v", a.Name, err, plain.Error)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", a.Name, err)
			continue
		}
		if err := readAs(a.Command, raw); err != nil {
			t.Errorf("%s: %v", a.Name, err)
		}
	}
}

// readAs reads an answer as the typed call of the command does, and wants a name in it.
func readAs(command string, raw json.RawMessage) error {
	name := "-"
	var err error
	switch command {
	case "host_add", "host_mod", "host_show":
		var h Host
		h, err = decodeEntry[Host](raw)
		name = h.FQDN
	case "service_add", "service_show":
		var s Service
		s, err = decodeEntry[Service](raw)
		name = s.Principal
	case "dnszone_show", "dnszone_add":
		var z Zone
		z, err = decodeEntry[Zone](raw)
		name = z.Name
	case "dnsrecord_add", "dnsrecord_show":
		var r Record
		r, err = decodeEntry[Record](raw)
		name = r.Name
	case "host_find":
		_, err = decodeFound[Host](raw)
	case "service_find":
		_, err = decodeFound[Service](raw)
	case "dnsrecord_find":
		_, err = decodeFound[Record](raw)
	case "service_add_host", "service_remove_host", "privilege_add_permission", "role_add_privilege", "role_add_member":
		_, err = decodeMembership(raw)
	}
	if err == nil && name == "" {
		err = errors.New("the entry has no name")
	}
	return err
}

func TestRecordedBatch(t *testing.T) {
	for _, a := range recordedAnswers(t) {
		if a.Name != "batch-some-fail" {
			continue
		}
		raw, err := readAnswer(a.Answer, 0, Command{name: "batch"})
		if err != nil {
			t.Fatal(err)
		}
		results, err := readBatch(raw, make([]Command, 10))
		if err != nil {
			t.Fatal(err)
		}
		want := []Code{DuplicateEntry, 0, NotFound, DNSNotARecordError, NotFound, NotFound, CommandError, ConversionError, EmptyModlist, 0}
		for i, code := range want {
			if (code == 0 && results[i].Err != nil) || (code != 0 && !errors.Is(results[i].Err, code)) {
				t.Errorf("item %d: %v, want %v", i, results[i].Err, code)
			}
		}
		if _, err := readBatch(raw, make([]Command, 9)); !errors.Is(err, ErrBadAnswer) {
			t.Errorf("an answer with an item too many: %v", err)
		}
		return
	}
	t.Fatal("the recording lacks batch-some-fail")
}

func FuzzAnswer(f *testing.F) {
	for _, a := range recordedAnswers(f) {
		f.Add([]byte(a.Answer))
	}
	f.Add([]byte(`{"result": {"result": {"fqdn": {"__dns_name__": 1}, "has_keytab": [[]]}}, "id": 0, "error": null}`))
	f.Add([]byte(`{"result": {"failed": {"managedby": {"host": [[], ["a"], ["a", "b", "c"]]}}, "results": [null, 1, {}]}, "id": 0}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		raw, err := readAnswer(body, 0, Command{name: "x"})
		if err != nil {
			return
		}
		for _, command := range []string{
			"host_show", "service_show", "dnszone_show", "dnsrecord_show", "host_find", "service_find", "dnsrecord_find",
			"service_add_host", "role_add_member",
		} {
			_ = readAs(command, raw)
		}
		for count := range 4 {
			if results, err := readBatch(raw, make([]Command, count)); err == nil && len(results) != count {
				t.Errorf("%d results for %d commands", len(results), count)
			}
		}
	})
}

func TestCodeClasses(t *testing.T) {
	for code, want := range map[Code]Class{
		901: Operator, 903: Repeatable, 905: Operator, 909: Permanent, 911: Operator, 1101: Operator, 1104: Repeatable, 2100: Operator,
		3009: Permanent, 4001: Permanent, 4002: Permanent, 4019: Permanent, 4201: Repeatable, 4202: Permanent, 4203: Repeatable,
		4204: Repeatable, 4208: Permanent, 4211: Repeatable, 4213: Repeatable, 4304: Permanent, 4401: Repeatable, 9999: Permanent,
	} {
		if got := code.Class(); got != want {
			t.Errorf("%d is %v, want %v", int(code), got, want)
		}
	}
}
