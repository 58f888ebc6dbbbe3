// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
)

// galeraConnector connects to MariaDB, and finds out whether the server is a node of Galera.
type galeraConnector struct {
	driver.Connector
	found *atomic.Bool
}

// Connect is driver.Connector's. On a node of Galera, whatever is read through the connection was read after all that the
// cluster had committed by then on any node (https://mariadb.com/kb/en/galera-cluster-system-variables/#wsrep_sync_wait; 1: SELECT
// and BEGIN wait). Else a revocation would miss the certificates that another node has recorded and this one has not yet.
func (g galeraConnector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := g.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	on, err := wsrepOn(ctx, conn)
	if err == nil && on {
		g.found.Store(true)
		_, err = conn.(driver.ExecerContext).ExecContext(ctx, "SET SESSION wsrep_sync_wait = 1", nil)
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// wsrepOn reports whether the server replicates. Servers without Galera don't have the variable, or say OFF.
func wsrepOn(ctx context.Context, conn driver.Conn) (bool, error) {
	rows, err := conn.(driver.QueryerContext).QueryContext(ctx, "SHOW VARIABLES LIKE 'wsrep_on'", nil)
	if err != nil {
		return false, err
	}
	values := make([]driver.Value, len(rows.Columns()))
	on := false
	for err = rows.Next(values); err == nil; err = rows.Next(values) {
		on = len(values) == 2 && fmt.Sprintf("%s", values[1]) == "ON"
	}
	if !errors.Is(err, io.EOF) {
		return false, errors.Join(err, rows.Close())
	}
	return on, rows.Close()
}
