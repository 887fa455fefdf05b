package cluster

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

// ChangeKind says what has happened.
type ChangeKind int

// The kinds of changes that an observer is told of.
const (
	StoreAway      ChangeKind = iota + 1 // the store is no longer asked: Err says why
	StoreBack                            // it answers again, after Lasted
	LockLost                             // a lock was another's when it was to be renewed
	ReplicaDiffers                       // Peer has joined, and has other routes
	StoreEvicts                          // the store may evict keys before they expire, by Policy
	FleetUnknown                         // the store cannot tell who lives: Err says why
	StoreMoved                           // the sentinels have named another master, which is asked from now on
	StoreFar                             // a round trip of Trip is too long for the timeout of an ask
	ControlUnread                        // what operators have changed cannot be read: Err says why
	Ordered                              // this replica obeys an operator's Order from now on, of By
	LimitChanged                         // the store has the budget of Limit, which is now Is, from when it was Was
)

// Change is something that happened to the store or the fleet, or was found in
// them.
type Change struct {
	Kind   ChangeKind
	Tag    string // of the routes that it concerns, with commas between them; empty for all
	Err    error
	Lasted time.Duration
	Trip   time.Duration
	Peer   Peer
	Policy string
	Limit  string // its name
	Is     string // as in "1/s burst 5"
	Was    string

	Order   string
	By      string
	Version uint64 // of all that operators have changed, with it
}

const (
	faultAway      = "store-away"
	faultWrongType = "wrong-type"
	faultMoved     = "moved"
	faultClosed    = "closed"
	faultRights    = "rights"
	faultOther     = "other"
)

// ofOneKey reports whether a fault is that of a key, while the store is well: it
// is not ours, or its slot is moving.
func ofOneKey(fault string) bool { return fault == faultWrongType || fault == faultMoved }

// replyFaults are the errors with which a Redis answers, by how they begin.
var replyFaults = map[string]string{
	"NOAUTH": "auth", "WRONGPASS": "auth", "NOPERM": faultRights,
	"LOADING": "loading", "READONLY": "readonly", "MASTERDOWN": "readonly", "OOM": "out-of-memory", "MISCONF": "no-persistence",
	"CLUSTERDOWN": "cluster-down", "MOVED": faultMoved, "ASK": faultMoved, "TRYAGAIN": faultMoved,
	"LATE": "timeout", // by our own scripts
	"BUSY": "busy", "WRONGTYPE": faultWrongType, "NOREPLICAS": "no-replicas",
}

// FaultOf names the kind of fault that err, an error of an ask, is about, by one
// word of a closed list, for metrics and logs. It is empty for nil.
func FaultOf(err error) string {
	var reply redis.Error
	var timeout net.Error
	switch {
	case err == nil:
		return ""
	case errors.Is(err, errAway):
		return faultAway
	case redis.IsPermissionError(err):
		return faultRights
	case redis.IsAuthError(err): // which, of a long command, is called a protocol error
		return "auth"
	case errors.As(err, &reply):
		text := reply.Error()
		if strings.Contains(text, "The user executing the script") {
			return faultRights // to a command, or a key, in it
		}
		for prefix, fault := range replyFaults {
			// A script's error can quote that of its command.
			if strings.HasPrefix(text, prefix) || strings.Contains(text, "-"+prefix) || strings.Contains(text, " "+prefix+" ") {
				return fault
			}
		}
		return faultOther
	case errors.As(err, new(*tlsError)):
		return "tls"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, redis.ErrPoolTimeout), errors.Is(err, redis.ErrPoolExhausted):
		return "pool"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, net.ErrClosed), errors.Is(err, redis.ErrClosed):
		return faultClosed
	}
	return faultOther
}

// counts are what a Redis has counted since it began.
type counts struct {
	renewed, lost, slotsLost atomic.Uint64

	mu     sync.Mutex
	faults map[string]uint64
}

func (c *counts) fault(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.faults == nil {
		c.faults = make(map[string]uint64)
	}
	c.faults[name]++
}
