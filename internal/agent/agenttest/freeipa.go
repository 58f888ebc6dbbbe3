// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agenttest

import (
	"os"
	"path/filepath"
)

// PythonModules is where Debian's Python finds the modules of packages.
const PythonModules = "/usr/lib/python3/dist-packages"

// freeIPA stands in for FreeIPA's Python modules: as much of them as the agent
// touches, with the same names and signatures.
var freeIPA = map[string]string{
	"ipaclient/__init__.py":         "",
	"ipaclient/install/__init__.py": "",
	"ipaclient/install/client.py":   "from ipapython.ipautil import run\n",
	"ipapython/__init__.py":         "",
	"ipapython/ipautil.py": `
import subprocess
from types import SimpleNamespace
def run(args, stdin=None, raiseonerr=True, nolog=(), env=None, capture_output=False, capture_error=False):
    p = subprocess.run(args, input=stdin, text=True, capture_output=True, env=env)
    if raiseonerr and p.returncode: raise RuntimeError(p.stderr)
    return SimpleNamespace(returncode=p.returncode, output=p.stdout, error_output=p.stderr)
`,
	"ipaplatform/__init__.py": "",
	"ipaplatform/paths.py": `
class paths:
    SBIN_IPA_JOIN = "/usr/sbin/ipa-join"
    IPA_GETKEYTAB = "/usr/sbin/ipa-getkeytab"
    IPA_CA_CRT = "/etc/ipa/ca.crt"
`,
}

// InstallFreeIPA puts stand-ins for the Python modules of FreeIPA's client into
// a machine's tree, and the folders that its package makes. The programs are
// the test's own.
func InstallFreeIPA(root string) error {
	for _, folder := range []string{"etc/ipa", "var/lib/ipa-client/sysrestore"} {
		if err := os.MkdirAll(filepath.Join(root, folder), 0o755); err != nil {
			return err
		}
	}
	for name, content := range freeIPA {
		file := filepath.Join(root, PythonModules, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}
