package postgres

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tributary-cdc/tributary/pkg/pgtest"
)

func TestDeadPeerIsNoticed(t *testing.T) {
	conn := connect(t, pgtest.Database(t, pgtest.Shared(t, 0)))
	tcp, ok := conn.PgConn().Conn().(*net.TCPConn)
	if !ok {
		t.Fatalf("the test's connection is a %T", conn.PgConn().Conn())
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	option := func(level, name, want int) {
		t.Helper()
		if err := raw.Control(func(fd uintptr) {
			if got, err := unix.GetsockoptInt(int(fd), level, name); err != nil || got != want {
				t.Errorf("option %d: got %d, %v; want %d", name, got, err, want)
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	option(unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	option(unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 15)
	option(unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 5)
	option(unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 3)
	option(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 30_000)
}
