# Copyright The Muster Authors
# SPDX-License-Identifier: Apache-2.0
"""Decide a batch of policy questions with oslo.policy itself.

Reads a JSON list of {rules, ask, creds, target} and writes a JSON list of
  malformed  a rule that oslo.policy logs as not understood, or fails on
  exotic     Python on the left side, or a % format, that Muster refuses by choice
  undefined  a reference to no rule, with no rule "default"
  circular   references in a circle
  allow      the decision (an exception is a refusal)
"""
import ast
import json
import logging
import re
import sys
import warnings

from oslo_config import cfg
from oslo_policy import _checks, _parser, policy

warnings.simplefilter('ignore')


class Count(logging.Handler):
    count = 0

    def emit(self, record):
        self.count += 1


log = Count(logging.ERROR)
logging.getLogger('oslo_policy').addHandler(log)
logging.getLogger('oslo_policy').propagate = False


def leaves(check):
    if isinstance(check, _checks.NotCheck):
        yield from leaves(check.rule)
    elif isinstance(check, (_checks.AndCheck, _checks.OrCheck)):
        for inner in check.rules:
            yield from leaves(inner)
    else:
        yield check


class Anything(dict):
    def __missing__(self, key):
        return 'x'


def plain(kind):
    node = ast.parse(kind.lstrip(' \t'), mode='eval').body
    if isinstance(node, ast.Constant):
        return (type(node.value) in (str, int, float, bool, type(None))
                and re.fullmatch(r'''[0-9.]+(e[0-9]+)?|\w+|'[^\\]*'|"[^\\]*"''', kind) is not None
                and not kind.startswith(("'''", '"""')) and kind.count(kind[0]) <= (2 if kind[0] in '\'"' else 99))
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, (ast.Name, ast.Constant)) and re.fullmatch(r'[\w.]+', kind) is not None


def judge(check):
    """Return (malformed, exotic) for one leaf."""
    if not isinstance(check, _checks.BaseCheck):
        return True, False
    if not isinstance(check, (_checks.GenericCheck, _checks.RoleCheck)):
        return False, False
    try:
        check.match % Anything()
    except (ValueError, TypeError):
        return True, False
    exotic = '%' in re.sub(r'%%|%\([^()]*\)s', '', check.match)
    if isinstance(check, _checks.GenericCheck):
        try:
            ast.literal_eval(check.kind)
        except (ValueError, TypeError):
            pass
        except SyntaxError:
            return True, False
        exotic = exotic or not plain(check.kind)
    return False, exotic


def circular(rules):
    done = set()

    def visit(name, path):
        if name in path:
            return True
        if name in done:
            return False
        for leaf in leaves(rules[name]):
            if isinstance(leaf, _checks.RuleCheck):
                to = leaf.match if leaf.match in rules else 'default'
                if to in rules and visit(to, path | {name}):
                    return True
        done.add(name)
        return False
    return any(visit(name, frozenset()) for name in rules)


conf = cfg.ConfigOpts()
conf([])
enforcer = policy.Enforcer(conf, use_conf=False, default_rule='default')


def answer(case):
    out = dict.fromkeys(('malformed', 'exotic', 'undefined', 'circular', 'allow'), False)
    before = log.count
    rules = policy.Rules.from_dict(case['rules'], 'default')
    out['malformed'] = log.count > before
    for check in rules.values():
        for leaf in leaves(check):
            malformed, exotic = judge(leaf)
            out['malformed'] |= malformed
            out['exotic'] |= exotic
            if isinstance(leaf, _checks.RuleCheck) and leaf.match not in rules and 'default' not in rules:
                out['undefined'] = True
    out['circular'] = circular(rules)
    if not out['malformed'] and not out['circular']:
        enforcer.set_rules(rules, use_conf=False)
        try:
            out['allow'] = bool(enforcer.enforce(case['ask'], case['target'], case['creds']))
        except Exception:
            pass
    return out


json.dump([answer(case) for case in json.load(sys.stdin)], sys.stdout)
