// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/muster-cloud/muster/internal/devcloud/identity"
)

// maxBody bounds a request body, as oslo.middleware does.
const maxBody = 114688

// failure is a refusal in Neutron's words.
type failure struct {
	status        int
	kind, message string
}

// Error implements error.
func (f *failure) Error() string { return f.message }

func notFound(kind, id string) error {
	return &failure{http.StatusNotFound, kind + "NotFound", kind + " " + id + " could not be found."}
}

func conflict(kind, message string) error { return &failure{http.StatusConflict, kind, message} }

func badRequest(message string) error {
	return &failure{http.StatusBadRequest, "BadRequest", message}
}

func (s *Service) routes() {
	s.mux = http.NewServeMux()
	s.mux.HandleFunc("GET /{$}", s.showVersions)
	s.mux.HandleFunc("GET /v2.0/networks", s.known(s.list("networks", func(url.Values) []record { return records(s.networks) })))
	s.mux.HandleFunc("GET /v2.0/ports", s.known(s.list("ports", s.candidates)))
	s.mux.HandleFunc("GET /v2.0/floatingips", s.known(s.list("floatingips", func(url.Values) []record { return records(s.floating) })))
	s.mux.HandleFunc("GET /v2.0/quotas", s.known(s.listQuotas))
	s.mux.HandleFunc("GET /v2.0/ports/{id}", s.known(with("Port", s.ports, func(c *call, one *port) (int, any, error) {
		return http.StatusOK, object{"port": one.view(c.admin())}, nil
	})))
	s.mux.HandleFunc("GET /v2.0/floatingips/{id}", s.known(with("FloatingIP", s.floating, func(_ *call, one *floatingIP) (int, any, error) {
		return http.StatusOK, object{"floatingip": one.view()}, nil
	})))
	s.mux.HandleFunc("POST /v2.0/ports", s.known(s.createPort))
	s.mux.HandleFunc("PUT /v2.0/ports/{id}", s.known(with("Port", s.ports, s.updatePort)))
	s.mux.HandleFunc("DELETE /v2.0/ports/{id}", s.known(with("Port", s.ports, func(_ *call, one *port) (int, any, error) {
		s.deletePort(one)
		return http.StatusNoContent, nil, nil
	})))
	s.mux.HandleFunc("POST /v2.0/floatingips", s.known(s.createFloatingIP))
	s.mux.HandleFunc("PUT /v2.0/floatingips/{id}", s.known(with("FloatingIP", s.floating, s.updateFloatingIP)))
	s.mux.HandleFunc("DELETE /v2.0/floatingips/{id}", s.known(with("FloatingIP", s.floating, func(_ *call, one *floatingIP) (int, any, error) {
		s.deleteFloatingIP(one)
		return http.StatusNoContent, nil, nil
	})))
}

// candidates are the ports among which a query chooses: those of a device by the
// shortest way, for there may be very many.
func (s *Service) candidates(query url.Values) []record {
	devices := query["device_id"]
	if len(devices) == 0 {
		return records(s.ports)
	}
	var list []record
	for _, device := range devices {
		for one := range s.devices[device] {
			list = append(list, one)
		}
	}
	return list
}

func records[T record](all map[string]T) []record {
	list := make([]record, 0, len(all))
	for _, one := range all {
		list = append(list, one)
	}
	return list
}

// call is a request of a known caller. The Service is locked, and the body is read.
type call struct {
	*http.Request
	body   []byte
	caller identity.Caller
}

func (c *call) admin() bool { return slices.Contains(c.caller.Roles, "admin") }

func (c *call) sees(one record) bool { return c.admin() || one.visibleTo(c.caller.ProjectID) }

// read decodes the body.
func (c *call) read(into any) error {
	if json.Unmarshal(c.body, into) != nil {
		return badRequest("The server could not comply with the request since it is either malformed or otherwise incorrect.")
	}
	return nil
}

func (s *Service) showVersions(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, object{"versions": []object{{"id": "v2.0", "status": "CURRENT",
		"links": []object{{"rel": "self", "href": s.cfg.URL + "/v2.0/"}}}}})
}

func (s *Service) known(handler func(*call) (int, any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		caller, ok := s.cfg.Keystone.Caller(r.Header.Get("X-Auth-Token"))
		if !ok || caller.ProjectID == "" {
			writeJSON(w, http.StatusUnauthorized, object{"error": object{"code": 401, "title": "Unauthorized",
				"message": "The request you have made requires authentication."}})
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if err != nil {
			http.Error(w, "the request body cannot be read", http.StatusBadRequest)
			return
		}
		s.mu.Lock()
		status, answer, err := handler(&call{r, body, caller})
		s.mu.Unlock()
		var refusal *failure
		switch {
		case errors.As(err, &refusal):
			writeJSON(w, refusal.status, object{"NeutronError": object{"type": refusal.kind, "message": refusal.message, "detail": ""}})
		case answer == nil:
			w.WriteHeader(status)
		default:
			writeJSON(w, status, answer)
		}
	}
}

// with finds what the path names, if the caller may see it.
func with[T record](kind string, all map[string]T, do func(*call, T) (int, any, error)) func(*call) (int, any, error) {
	return func(c *call) (int, any, error) {
		one, ok := all[identity.DashedID(c.PathValue("id"))]
		if !ok || !c.sees(one) {
			return 0, nil, notFound(kind, c.PathValue("id"))
		}
		return do(c, one)
	}
}

// listQuotas is for administrators only. No project has a quota of its own.
func (s *Service) listQuotas(c *call) (int, any, error) {
	if !c.admin() {
		return 0, nil, &failure{http.StatusForbidden, "PolicyNotAuthorized", "rule:get_quota is disallowed by policy"}
	}
	return http.StatusOK, object{"quotas": []any{}}, nil
}

// notFilters are parameters of a list's query that are no attribute.
var notFilters = []string{"fields", "sort_key", "sort_dir", "limit", "marker", "page_reverse"}

// list returns what the caller may see, by ID.
func (s *Service) list(collection string, all func(url.Values) []record) func(*call) (int, any, error) {
	return func(c *call) (int, any, error) {
		query := c.URL.Query()
		limit, err := strconv.Atoi(query.Get("limit"))
		if query.Has("limit") && (err != nil || limit < 0) {
			return 0, nil, badRequest("Bad limit request: Limit must be an integer 0 or greater and not '" + query.Get("limit") + "'.")
		}
		if s.pageSize > 0 && (limit == 0 || limit > s.pageSize) {
			limit = s.pageSize
		}
		found, err := choose(c, query, all(query))
		if err != nil {
			return 0, nil, err
		}
		if marker := query.Get("marker"); marker != "" && limit > 0 {
			if found, err = after(marker, collection, found, all(nil)); err != nil {
				return 0, nil, err
			}
		}
		answer := object{}
		if limit > 0 && len(found) >= limit {
			found = found[:limit]
			query.Set("marker", idOf(found[limit-1]))
			answer[collection+"_links"] = []object{{"rel": "next", "href": s.cfg.URL + c.URL.Path + "?" + query.Encode()}}
		}
		views := []object{}
		for _, one := range found {
			views = append(views, only(query["fields"], one.show(c.admin())))
		}
		answer[collection] = views
		return http.StatusOK, answer, nil
	}
}

// choose returns what fits the query's filters, sorted. Several values of one
// attribute are alternatives.
func choose(c *call, query url.Values, all []record) ([]record, error) {
	filters := map[string][]string{}
	for name, values := range query {
		if !slices.Contains(notFilters, name) {
			filters[name] = values
		}
	}
	var found []record
	for _, one := range all {
		fits := c.sees(one)
		for name, values := range filters {
			value, ok := one.attribute(name)
			if !ok {
				return nil, &failure{http.StatusBadRequest, "HTTPBadRequest", fmt.Sprintf("['%s'] is invalid attribute for filtering", name)}
			}
			fits = fits && slices.Contains(values, value)
		}
		if fits {
			found = append(found, one)
		}
	}
	slices.SortFunc(found, func(a, b record) int { return strings.Compare(idOf(a), idOf(b)) })
	return found, nil
}

// after drops what comes up to the marker, which must be there.
func after(marker, collection string, found, all []record) ([]record, error) {
	if !slices.ContainsFunc(all, func(one record) bool { return idOf(one) == marker }) {
		kind := map[string]string{"networks": "Network", "ports": "Port", "floatingips": "FloatingIP"}[collection]
		return nil, notFound(kind, marker)
	}
	i, there := slices.BinarySearchFunc(found, marker, func(one record, id string) int { return strings.Compare(idOf(one), id) })
	if there {
		i++
	}
	return found[i:], nil
}

func idOf(one record) string {
	id, _ := one.attribute("id")
	return id
}

// only leaves the fields that were asked for.
func only(fields []string, view object) object {
	if len(fields) == 0 {
		return view
	}
	some := object{}
	for _, name := range fields {
		if value, ok := view[name]; ok {
			some[name] = value
		}
	}
	return some
}

// portBody is what a caller says of a port.
type portBody struct {
	Port *struct {
		Name        *string `json:"name"`
		NetworkID   string  `json:"network_id"`
		ProjectID   string  `json:"project_id"`
		DeviceID    *string `json:"device_id"`
		DeviceOwner *string `json:"device_owner"`
		FixedIPs    []struct {
			IPAddress string `json:"ip_address"`
		} `json:"fixed_ips"`
	} `json:"port"`
}

func (s *Service) createPort(c *call) (int, any, error) {
	var body portBody
	if err := c.read(&body); err != nil {
		return 0, nil, err
	}
	if body.Port == nil {
		return 0, nil, badRequest("Unable to find 'port' in request body")
	}
	wanted := Port{NetworkID: body.Port.NetworkID, ProjectID: c.caller.ProjectID, Name: text(body.Port.Name),
		DeviceID: text(body.Port.DeviceID), DeviceOwner: text(body.Port.DeviceOwner)}
	if body.Port.ProjectID != "" && c.admin() {
		wanted.ProjectID = body.Port.ProjectID
	}
	var err error
	if wanted.Addresses, err = parseAddresses(body.Port.FixedIPs); err != nil {
		return 0, nil, err
	}
	made, err := s.addPort(wanted)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusCreated, object{"port": made.view(c.admin())}, nil
}

func (s *Service) updatePort(c *call, one *port) (int, any, error) {
	var body portBody
	if err := c.read(&body); err != nil {
		return 0, nil, err
	}
	if body.Port == nil {
		return 0, nil, badRequest("Unable to find 'port' in request body")
	}
	device, owner := one.DeviceID, one.DeviceOwner
	for to, given := range map[*string]*string{&one.Name: body.Port.Name, &device: body.Port.DeviceID, &owner: body.Port.DeviceOwner} {
		if given != nil {
			*to = *given
		}
	}
	s.use(one, device, owner)
	return http.StatusOK, object{"port": one.view(c.admin())}, nil
}

// floatingIPBody is what a caller says of a floating IP. Its port may be null.
type floatingIPBody struct {
	FloatingIP *struct {
		FloatingNetworkID string          `json:"floating_network_id"`
		PortID            json.RawMessage `json:"port_id"`
	} `json:"floatingip"`
}

// readFloatingIP returns the network, the port, "" for null, and whether a port is named at all.
func (c *call) readFloatingIP() (networkID, portID string, named bool, err error) {
	var body floatingIPBody
	if err := c.read(&body); err != nil {
		return "", "", false, err
	}
	if body.FloatingIP == nil {
		return "", "", false, badRequest("Unable to find 'floatingip' in request body")
	}
	raw := body.FloatingIP.PortID
	if len(raw) > 0 && string(raw) != "null" && json.Unmarshal(raw, &portID) != nil {
		return "", "", false, badRequest("Invalid input for port_id. Reason: it is not a valid UUID.")
	}
	return body.FloatingIP.FloatingNetworkID, portID, len(raw) > 0, nil
}

func (s *Service) createFloatingIP(c *call) (int, any, error) {
	networkID, portID, _, err := c.readFloatingIP()
	if err != nil {
		return 0, nil, err
	}
	if err := s.mayLead(c, portID); err != nil {
		return 0, nil, err
	}
	made, err := s.addFloatingIP(c.caller.ProjectID, networkID, portID)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusCreated, object{"floatingip": made.view()}, nil
}

func (s *Service) updateFloatingIP(c *call, one *floatingIP) (int, any, error) {
	_, portID, named, err := c.readFloatingIP()
	if err != nil {
		return 0, nil, err
	}
	if named {
		if err := s.mayLead(c, portID); err != nil {
			return 0, nil, err
		}
		if err := s.associate(one, portID); err != nil {
			return 0, nil, err
		}
	}
	return http.StatusOK, object{"floatingip": one.view()}, nil
}

// mayLead: a floating IP leads to ports only that the caller sees.
func (s *Service) mayLead(c *call, portID string) error {
	if one, ok := s.ports[identity.DashedID(portID)]; portID != "" && (!ok || !c.sees(one)) {
		return notFound("Port", portID)
	}
	return nil
}

func text(given *string) string {
	if given == nil {
		return ""
	}
	return *given
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client may be gone
}
