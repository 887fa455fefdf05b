package cluster

import (
	_ "embed"
	"strconv"
	"time"
)

var (
	//go:embed land.lua
	landSource string
	//go:embed unshare.lua
	unshareSource string

	landScript    = newScript(landSource)
	unshareScript = newScript(unshareSource)
)

// wanted is what land.lua returns where it is to be told how the flight has ended.
const wanted = 2

// landing is the end of a lock whose exchange may be followed. What has become of
// that is told only where somebody waits for it, or its hold begins.
type landing struct {
	*lock
	ending  Ending
	until   time.Duration
	marks   bool // others may ask for it yet who came before it began
	told    bool // how it has ended is said in any case
	publish string
	ttl     time.Duration
	clock   *clock
}

// landing is the task to release the lock of g, which may be followed, or to turn it
// into a hold.
func (r *Redis) landing(g *Grant, hold time.Duration) *task {
	now := r.known.now()
	e := g.flight.ending
	return &task{
		class:  endings,
		tag:    g.lock.id.tag,
		script: landScript,
		what: landing{
			lock: g.lock, ending: e, until: now + hold, marks: g.flight.awaited && hold == 0,
			told:    e.Kind != Answered || hold > 0 && len(e.Answer) <= maxHeldAnswer,
			publish: r.publish(), ttl: r.options.LockTTL, clock: &r.partOf(g.lock.id.tag).clock,
		},
		forget: now + max(hold, r.options.LockTTL),
		lock:   g.lock,
	}
}

// publish is the command by which replicas tell each other: in a Cluster, only those
// of the slot.
func (r *Redis) publish() string {
	if r.parts.whole == nil {
		return "SPUBLISH"
	}
	return "PUBLISH"
}

// bytes is how long the answer is that goes with it.
func (l landing) bytes() int {
	if !l.told {
		return 0
	}
	return len(l.ending.Answer)
}

func (l landing) args(c *command, now time.Duration) {
	c.arg(l.token())
	hold := millis(l.until - now)
	c.number(hold)
	if hold > 0 {
		c.arg(l.valueBy(l.clock))
	} else {
		c.arg("")
	}
	if l.told {
		c.text = append(c.text, byte(l.ending.Kind))
		if l.ending.Kind == Answered {
			c.text = l.id.fingerprint.appendSealed(c.text, l.ending.Answer, l.clock.at(now), l.token())
		}
	}
	c.endArg()
	mark := time.Duration(0)
	if l.marks {
		mark = 2 * l.ttl // who follows a leader that died looks for it once a TTL
	}
	c.text = strconv.AppendInt(c.text, millis(2*l.ttl), 10) // so that who was not told finds it
	c.text = strconv.AppendInt(append(c.text, ' '), millis(mark), 10)
	c.text = append(append(c.text, ' '), l.publish...)
	c.endArg()
}

// appendAnswerKey appends the key of a flight's answer.
func appendAnswerKey(b []byte, tag, token string) []byte {
	return append(append(appendTag(b, tag), ":answer:"...), token...)
}

// appendChannel appends the name of the channel on which is told how flights have
// ended.
func appendChannel(b []byte, tag string) []byte { return append(appendTag(b, tag), ":flights"...) }

// unshareable tells the followers of g's exchange that they get no answer: those on
// other replicas a moment later.
func (r *Redis) unshareable(g *Grant) {
	r.known.unshareable(g)
	if g.lock.stored.Load() {
		now := r.known.now()
		r.queue.add(&task{
			class: endings, tag: g.lock.id.tag, script: unshareScript, what: unsharing{g.lock, r.publish()}, forget: now + r.options.LockTTL,
		})
	}
}

// unsharing says of a flight that its answer is its leader's alone.
type unsharing struct {
	*lock
	publish string
}

func (u unsharing) args(c *command, _ time.Duration) {
	c.arg(u.token())
	c.beginKey()
	c.text = appendChannel(c.text, u.id.tag)
	c.endArg()
	c.arg(u.publish)
}
