// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"
)

// address is a fixed one of an instance, or with a source from 100 on a floating one.
func address(instance, source int, ip string) Address {
	a := Address{InstanceID: id(instance), SourceID: id(source), IP: netip.MustParseAddr(ip), Kind: AddressFixed, NetworkID: id(7)}
	if source >= 100 {
		a.Kind = AddressFloating
	}
	return a
}

func TestAddresses(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		now := f.clock.Now()
		set := func(instance int, addresses ...Address) {
			t.Helper()
			if err := f.store().SetAddresses(ctx, id(instance), addresses); err != nil {
				t.Fatal(err)
			}
		}
		dated := func(at time.Time, addresses ...Address) []Address {
			for i := range addresses {
				addresses[i].CreatedAt = at
			}
			return addresses
		}
		equal(t, len(must(f.store().Addresses(ctx, id(1)))(t)), 0)
		v4, v6, floating := address(1, 1, "10.0.0.9"), address(1, 1, "fd00::9"), address(1, 100, "203.0.113.7")
		set(1, v6, v4, floating)
		set(2, address(2, 2, "10.0.0.9"))
		equal(t, must(f.store().Addresses(ctx, id(1)))(t), dated(now, floating, v4, v6))
		equal(t, must(f.store().AddressHolders(ctx, id(100)))(t), []string{id(1)})
		equal(t, must(f.store().AddressHolders(ctx, id(1)))(t), []string{id(1)})

		// The floating IP moves. What stays keeps its time.
		f.clock.step(time.Minute)
		moved := address(2, 100, "203.0.113.7")
		set(2, address(2, 2, "10.0.0.9"), moved)
		equal(t, must(f.store().AddressHolders(ctx, id(100)))(t), []string{id(1), id(2)})
		set(1, v6, v4)
		set(1, v6, v4)
		equal(t, must(f.store().AddressHolders(ctx, id(100)))(t), []string{id(2)})
		both := map[string][]Address{id(1): dated(now, v4, v6), id(2): append(dated(now.Add(time.Minute), moved), dated(now, address(2, 2, "10.0.0.9"))...)}
		equal(t, must(f.store().AddressesOf(ctx, []string{id(1), id(2), id(3)}))(t), both)

		var all []Address
		for after := (Address{}); ; {
			page := must(f.store().AllAddresses(ctx, after, 1))(t)
			if len(page) == 0 {
				break
			}
			all, after = append(all, page...), page[0]
		}
		want := slices.Concat(both[id(1)], both[id(2)])
		slices.SortFunc(want, func(a, b Address) int {
			return slices.Compare([]string{a.InstanceID, a.SourceID, a.IP.String()}, []string{b.InstanceID, b.SourceID, b.IP.String()})
		})
		equal(t, all, want)

		// A port that went to another network.
		elsewhere := v4
		elsewhere.NetworkID = id(8)
		set(1, elsewhere)
		equal(t, must(f.store().Addresses(ctx, id(1)))(t), dated(f.clock.Now(), elsewhere))
		set(1)
		equal(t, len(must(f.store().Addresses(ctx, id(1)))(t)), 0)
	})
}

// TestAddAddresses records many at once beside what is there.
func TestAddAddresses(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		if err := f.store().SetAddresses(ctx, id(1), []Address{address(1, 1, "10.0.0.9")}); err != nil {
			t.Fatal(err)
		}
		old := must(f.store().Addresses(ctx, id(1)))(t)
		f.clock.step(time.Minute)
		many := []Address{address(1, 1, "10.0.0.9"), address(1, 100, "203.0.113.7"), address(1, 100, "203.0.113.7")}
		for n := range 2 * maxAdded {
			many = append(many, address(1000+n, 1000+n, "203.0.113.8"))
		}
		for range 2 {
			if err := f.store().AddAddresses(ctx, many); err != nil {
				t.Fatal(err)
			}
		}
		floating := address(1, 100, "203.0.113.7")
		floating.CreatedAt = f.clock.Now()
		equal(t, must(f.store().Addresses(ctx, id(1)))(t), append([]Address{floating}, old...))
		equal(t, len(must(f.store().AllAddresses(ctx, Address{InstanceID: id(2)}, MaxPageLimit))(t)), 2*maxAdded)
		isError(t, f.store().AddAddresses(ctx, []Address{{InstanceID: id(1)}}), ErrInvalid)
	})
}

func TestBadAddressesAreRefused(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		for name, spoil := range map[string]func(*Address){
			"no source":    func(a *Address) { a.SourceID = "" },
			"odd network":  func(a *Address) { a.NetworkID = "ü" },
			"no kind":      func(a *Address) { a.Kind = "" },
			"no address":   func(a *Address) { a.IP = netip.Addr{} },
			"with a zone":  func(a *Address) { a.IP = netip.MustParseAddr("fe80::1%eth0") },
			"long network": func(a *Address) { a.NetworkID = id(1) + id(2) + "0" },
		} {
			a := address(1, 1, "10.0.0.9")
			spoil(&a)
			if err := f.store().SetAddresses(t.Context(), id(1), []Address{a}); err == nil {
				t.Errorf("%s: recorded", name)
			}
		}
		isError(t, f.store().SetAddresses(t.Context(), id(1), make([]Address, MaxAddresses+1)), ErrInvalid)
	})
}

// TestAddressesSetAtOnce: two replicas that record the same at once both succeed.
func TestAddressesSetAtOnce(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		want := []Address{address(1, 100, "203.0.113.7"), address(1, 1, "10.0.0.9")}
		var wg sync.WaitGroup
		for range 8 {
			s := f.store()
			wg.Go(func() {
				if err := s.SetAddresses(t.Context(), id(1), want); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		equal(t, len(must(f.store().Addresses(t.Context(), id(1)))(t)), 2)
	})
}
