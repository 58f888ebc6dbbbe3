# Copyright The Muster Authors
# SPDX-License-Identifier: Apache-2.0
"""Read INI files as oslo.config does, for the tests to compare with.

Standard input: {"options": [{section, name, kind, default, deprecated}],
"cases": [[path, ...], ...]}. Standard output: for each case the sections of
each file (or the line of its syntax error), and the value of each option (or
that it has none).
"""
import json
import sys

from oslo_config import cfg, types


def raw(path):
    sections = {}
    try:
        cfg.ConfigParser(path, sections).parse()
    except cfg.ParseError as error:
        return {"error": error.lineno}
    return {"sections": sections}


def option(o):
    kinds = {
        "boolean value": types.Boolean(),
        "integer value": types.Integer(),
        "list value": types.List(types.String(quotes=True)),
        "dict value": types.Dict(types.String(quotes=True)),
    }
    old = [cfg.DeprecatedOpt(d["option"], group=d["section"]) for d in o["deprecated"]]
    return cfg.Opt(o["name"], type=kinds.get(o["kind"], types.String()),
                   default=o["default"] or None, deprecated_opts=old)


def values(options, paths):
    conf = cfg.ConfigOpts()
    conf._use_env = False
    for o in options:
        conf.register_opt(option(o), group=None if o["section"] == "DEFAULT" else o["section"])
    conf(args=[], default_config_files=paths, use_env=False)
    result = []
    for o in options:
        group = conf if o["section"] == "DEFAULT" else conf[o["section"]]
        try:
            result.append({"value": group[o["name"]]})
        except Exception as error:
            result.append({"error": type(error).__name__})
    return result


def main():
    work = json.load(sys.stdin)
    answers = []
    for paths in work["cases"]:
        files = [raw(path) for path in paths]
        answer = {"files": files}
        if not any("error" in f for f in files):
            answer["values"] = values(work["options"], paths)
        answers.append(answer)
    json.dump(answers, sys.stdout)


main()
