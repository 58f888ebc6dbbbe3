// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Secret is text that must not be seen. Formatting, logging and encoding it
// yields ****; string(s) is the text itself.
type Secret string

// String returns **** unless s is empty.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return mask
}

// GoString is String, for %#v.
func (s Secret) GoString() string { return strconv.Quote(s.String()) }

// LogValue is String, for log/slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText is String, for encoding/json and others.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Bytes is a size: a plain number, or a number with B, KiB, MiB or GiB.
type Bytes int64

const mask = "****"

// kindOf names the type of the option that is kept in field, a pointer, as
// oslo-config-generator names types.
func kindOf(field any) string {
	switch field.(type) {
	case *string, *Secret:
		return "string value"
	case *bool:
		return "boolean value"
	case *int:
		return "integer value"
	case *float64:
		return "floating point value"
	case *time.Duration:
		return "duration value"
	case *Bytes:
		return "size value"
	case *[]string:
		return "list value"
	case *map[string]string:
		return "dict value"
	case *[]netip.Prefix:
		return "list of networks"
	case **url.URL:
		return "URL value"
	case *slog.Level:
		return "log level"
	}
	panic(fmt.Sprintf("config: no option type for %T", field))
}

// assign converts text to the type of field, a pointer, and stores it. Its
// errors say what is expected and never repeat text.
func assign(field any, text string) error {
	switch f := field.(type) {
	case *string:
		*f = text
	case *Secret:
		*f = Secret(text)
	case *bool:
		return store(f, text, parseBool)
	case *int:
		return store(f, text, parseInt)
	case *float64:
		return store(f, text, parseFloat)
	case *time.Duration:
		return store(f, text, parseDuration)
	case *Bytes:
		return store(f, text, parseBytes)
	case *[]string:
		return store(f, text, parseList)
	case *map[string]string:
		return store(f, text, parseDict)
	case *[]netip.Prefix:
		return store(f, text, parseNetworks)
	case **url.URL:
		return store(f, text, parseURL)
	case *slog.Level:
		return store(f, text, parseLevel)
	}
	return nil
}

func store[T any](field *T, text string, parse func(string) (T, error)) error {
	v, err := parse(text)
	if err == nil {
		*field = v
	}
	return err
}

// measure is the number that an option's limits are compared with, in seconds
// or bytes for durations and sizes; false for what has none.
func measure(field any) (float64, bool) {
	switch f := field.(type) {
	case *int:
		return float64(*f), true
	case *float64:
		return *f, true
	case *time.Duration:
		return f.Seconds(), true
	case *Bytes:
		return float64(*f), true
	}
	return 0, false
}

func parseBool(s string) (bool, error) {
	switch strings.ToLower(s) {
	case "true", "1", "on", "yes":
		return true, nil
	case "false", "0", "off", "no":
		return false, nil
	}
	return false, errors.New("not a boolean; write true or false")
}

func parseInt(s string) (int, error) {
	n, err := strconv.Atoi(strings.TrimFunc(s, isSpace))
	if err != nil {
		return 0, errors.New("not a whole number; write digits only")
	}
	return n, nil
}

func parseFloat(s string) (float64, error) {
	n, err := strconv.ParseFloat(strings.TrimFunc(s, isSpace), 64)
	if err != nil || math.IsNaN(n) || math.IsInf(n, 0) {
		return 0, errors.New("not a number; write digits, with a point if needed")
	}
	return n, nil
}

var durationPattern = regexp.MustCompile(`^(?:(\d{1,6})d)?((?:\d+(?:\.\d+)?(?:ns|us|µs|ms|s|m|h))*)$`)

// parseDuration reads a plain number as seconds, and Go's durations with days
// in front: 30, 1.5, 90s, 12h30m, 30d, 1d12h. Never negative.
func parseDuration(s string) (time.Duration, error) {
	bad := errors.New("not a duration; write seconds, or a number with a unit such as 30s, 12h or 30d")
	s = strings.TrimFunc(s, isSpace)
	if strings.Trim(s, "0123456789.") == "" {
		s += "s"
	}
	m := durationPattern.FindStringSubmatch(s)
	if m == nil || s == "" {
		return 0, bad
	}
	var d time.Duration
	if m[1] != "" {
		days, err := strconv.Atoi(m[1])
		if err != nil || days > 100*365 {
			return 0, errors.New("a duration of more than 100 years; write a shorter one")
		}
		d = time.Duration(days) * 24 * time.Hour
	}
	if m[2] != "" {
		rest, err := time.ParseDuration(m[2])
		if err != nil || rest > 100*365*24*time.Hour {
			return 0, bad
		}
		d += rest
	}
	return d, nil
}

func parseBytes(s string) (Bytes, error) {
	bad := errors.New("not a size; write bytes, or a number with KiB, MiB or GiB")
	s = strings.TrimFunc(s, isSpace)
	digits := strings.TrimRight(s, "KMGiB")
	n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
	if err != nil || n < 0 {
		return 0, bad
	}
	shift, ok := map[string]int{"": 0, "B": 0, "KiB": 10, "MiB": 20, "GiB": 30}[s[len(digits):]]
	if !ok || n > math.MaxInt64>>shift {
		return 0, bad
	}
	return Bytes(n << shift), nil
}

// parseList is oslo_config.types.List of String(quotes=True): items between
// commas, blanks around them removed, an item in quotes may hold commas.
func parseList(s string) ([]string, error) {
	s = strings.TrimRight(strings.TrimFunc(s, isSpace), ",")
	if s == "" {
		return nil, nil
	}
	var items []string
	parts := strings.Split(s, ",")
	for len(parts) > 0 {
		item, rest, err := joinUntil(parts, unquoteItem)
		if err != nil {
			return nil, err
		}
		items, parts = append(items, item), rest
	}
	return items, nil
}

// parseDict is oslo_config.types.Dict of String(quotes=True):
// name:value,name:value.
func parseDict(s string) (map[string]string, error) {
	s = strings.TrimFunc(s, isSpace)
	if s == "" {
		return nil, nil
	}
	dict := map[string]string{}
	parts := strings.Split(s, ",")
	for len(parts) > 0 {
		pair, rest, err := joinUntil(parts, parsePair)
		if err != nil {
			return nil, err
		}
		if pair[0] == "" {
			return nil, errors.New("a pair without a name; write name:value,name:value")
		}
		if _, twice := dict[pair[0]]; twice {
			return nil, errors.New("the same name twice; name each once")
		}
		dict[pair[0]], parts = pair[1], rest
	}
	return dict, nil
}

// joinUntil parses the first part, joined with as many of the following as it
// needs to be valid: how oslo.config lets items hold commas.
func joinUntil[T any](parts []string, parse func(string) (T, error)) (v T, rest []string, err error) {
	item := parts[0]
	for n := 1; ; n++ {
		v, err = parse(item)
		if err == nil || n == len(parts) {
			return v, parts[n:], err
		}
		item += "," + parts[n]
	}
}

func unquoteItem(s string) (string, error) {
	s = strings.TrimFunc(s, isSpace)
	if s == "" || (s[0] != '"' && s[0] != '\'') {
		return s, nil
	}
	if len(s) == 1 || s[0] != s[len(s)-1] {
		return "", errors.New("a quote that is not closed; end the item with the quote it begins with")
	}
	return s[1 : len(s)-1], nil
}

func parsePair(s string) ([2]string, error) {
	name, value, found := strings.Cut(s, ":")
	if !found {
		return [2]string{}, errors.New("not a list of pairs; write name:value,name:value")
	}
	value, err := unquoteItem(value)
	return [2]string{strings.TrimFunc(name, isSpace), value}, err
}

func parseNetworks(s string) ([]netip.Prefix, error) {
	items, err := parseList(s)
	if err != nil {
		return nil, err
	}
	var networks []netip.Prefix
	for _, item := range items {
		network, err := netip.ParsePrefix(item)
		if err != nil {
			address, err := netip.ParseAddr(item)
			if err != nil || address.Zone() != "" {
				return nil, errors.New("not a list of networks; write such as 192.0.2.0/24, 2001:db8::/32")
			}
			network = netip.PrefixFrom(address, address.BitLen())
		}
		if network != network.Masked() {
			return nil, errors.New("a network with host bits set; write the network's first address")
		}
		networks = append(networks, network)
	}
	return networks, nil
}

// parseURL takes an absolute http or https URL without user, query and fragment.
func parseURL(s string) (*url.URL, error) {
	if s == "" {
		return nil, nil
	}
	u, err := url.Parse(s)
	switch {
	case err != nil || !slices.Contains([]string{"http", "https"}, u.Scheme) || u.Hostname() == "":
		return nil, errors.New("not an http or https URL; write such as https://host:port/path")
	case u.User != nil:
		return nil, errors.New("a URL with a user in it; leave the user out")
	case u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("a URL with a query or fragment; end it before ? and #")
	}
	return u, nil
}

// logLevels are oslo.log's names.
var logLevels = map[string]slog.Level{
	"debug": slog.LevelDebug, "info": slog.LevelInfo, "warning": slog.LevelWarn, "error": slog.LevelError,
}

func parseLevel(s string) (slog.Level, error) {
	level, ok := logLevels[strings.ToLower(s)]
	if !ok {
		return 0, errors.New("not a log level; write debug, info, warning or error")
	}
	return level, nil
}
