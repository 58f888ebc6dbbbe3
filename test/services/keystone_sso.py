# Copyright The Muster Authors
# SPDX-License-Identifier: Apache-2.0
"""Keystone behind a single sign-on that believes whatever a request says.

It stands in for the web server's module (mod_auth_openidc and the like), which
puts what an identity provider asserted into the WSGI environment. From there on
all is Keystone's own: remote IDs, protocols, mappings, shadow users.
"""

import keystone.server.wsgi


def initialize_application():
    application = keystone.server.wsgi.initialize_public_application()

    def signed_on(environ, start_response):
        user = environ.pop("HTTP_ASSERTED_USER", None)
        groups = environ.pop("HTTP_ASSERTED_GROUPS", "")
        path = environ["PATH_INFO"]
        if user and path.startswith("/v3/OS-FEDERATION/") and path.endswith("/auth"):
            environ.update(OIDC_ISS="https://idp.example.com", OIDC_USER=user, OIDC_GROUPS=groups)
        return application(environ, start_response)

    return signed_on
