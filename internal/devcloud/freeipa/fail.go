// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package freeipa

import "fmt"

// fail is an error as FreeIPA's ipalib/errors.py numbers it.
type fail struct {
	code    int
	name    string
	message string
	data    entry
}

func versionError(client, host string) *fail {
	server := "https://" + host + "/ipa/xml"
	return &fail{901, "VersionError", fmt.Sprintf("%s client incompatible with %s server at '%s'", client, apiVersion, server),
		entry{"cver": client, "sver": apiVersion, "server": server}}
}

func commandError(name string) *fail {
	return &fail{905, "CommandError", fmt.Sprintf("unknown command '%s'", name), entry{"name": name}}
}

func jsonError(why string) *fail {
	return &fail{909, "JSONError", "Invalid JSON-RPC request: " + why, entry{"error": why}}
}

func refererError(referer string) *fail {
	if referer == "" {
		referer = "missing"
	}
	return &fail{911, "RefererError", "Missing or invalid HTTP Referer, " + referer, entry{"referer": referer}}
}

func aciError(info string) *fail {
	return &fail{2100, "ACIError", "Insufficient access: " + info, entry{"info": info}}
}

func maxArgumentError(name string, count int) *fail {
	if count == 0 {
		return &fail{3003, "ZeroArgumentError", fmt.Sprintf("command '%s' takes no arguments", name), entry{"name": name}}
	}
	plural := "s"
	if count == 1 {
		plural = ""
	}
	return &fail{3004, "MaxArgumentError", fmt.Sprintf("command '%s' takes at most %d argument%s", name, count, plural),
		entry{"name": name, "count": count}}
}

func optionError(message string, data entry) *fail {
	return &fail{3005, "OptionError", message, data}
}

func requirementError(name string) *fail {
	return &fail{3007, "RequirementError", fmt.Sprintf("'%s' is required", name), entry{"name": name}}
}

func conversionError(name, why string) *fail {
	return &fail{3008, "ConversionError", fmt.Sprintf("invalid '%s': %s", name, why), entry{"name": name, "error": why}}
}

func validationError(name, why string) *fail {
	return &fail{3009, "ValidationError", fmt.Sprintf("invalid '%s': %s", name, why), entry{"name": name, "error": why}}
}

func notFound(reason string) *fail {
	return &fail{4001, "NotFound", reason, entry{"reason": reason}}
}

func duplicate(message string) *fail {
	return &fail{4002, "DuplicateEntry", message, entry{}}
}

func duplicateNamed(kind, name string) *fail {
	return duplicate(fmt.Sprintf("%s with name \"%s\" already exists", kind, name))
}

func realmMismatch() *fail {
	return &fail{4005, "RealmMismatch", "The realm for the principal does not match the realm for this IPA server", entry{}}
}

func alreadyInactive() *fail {
	return &fail{4010, "AlreadyInactive", "This entry is already disabled", entry{}}
}

func noAddressRecord(host string) *fail {
	return &fail{4019, "DNSNotARecordError", fmt.Sprintf("Host '%s' does not have corresponding DNS A/AAAA record", host),
		entry{"hostname": host}}
}

func valueNotFound(attr, value string) *fail {
	return &fail{4026, "AttrValueNotFound", fmt.Sprintf("%s does not contain '%s'", attr, value),
		entry{"attr": attr, "value": value}}
}

func emptyModlist() *fail {
	return &fail{4202, "EmptyModlist", "no modifications to be performed", entry{}}
}

func invalidSyntax(attr string) *fail {
	return &fail{4208, "InvalidSyntax", attr + ": Invalid syntax.", entry{"attr": attr}}
}

func nonFatal(reason string) *fail {
	return &fail{4304, "NonFatalError", reason, entry{"reason": reason}}
}
