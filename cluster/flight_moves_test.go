package cluster

import (
	"testing"
	"time"

	"throttle-proxy/integration/redistest"
)

// While a slot moves, a lock is with one master, and its answer with the other. Those
// who listen there are sent away once the slot has moved. No lock lasts an hour here.
func TestRedisCluster_FollowersGetTheirAnswerWhileTheSlotMoves(t *testing.T) {
	t.Parallel()
	skipIfShort(t)
	nodes := redistest.StartCluster(t)
	leader, follower := fleetOf(t, nodes.URL(), time.Hour)
	from := nodes.Nodes[nodes.Owner("{slack}")]
	to := nodes.Nodes[(nodes.Owner("{slack}")+1)%3]
	bodies := []string{"its lock has moved", "its lock has not moved", "it ends when all has moved"}
	var grants []*Grant
	var verdicts []Verdict
	for _, body := range bodies {
		grants = append(grants, admit(t, leader, shared(body)).Grant)
		verdicts = append(verdicts, expect(t, follower, Duplicate, shared(body)))
	}
	last := follow(t, verdicts[2]) // which listens from before the move on
	eventually(t, "it listens", func() bool {
		n, _ := from.Client().Do(t.Context(), "pubsub", "shardnumsub", "throttle:2:{slack}:flights").Slice()
		return len(n) == 2 && n[1] == int64(1)
	})
	nodes.MoveKey(lockKey(shared(bodies[0])), from, to)
	grants[0].Share([]byte("x"))
	grants[0].Release(0)
	wantEnding(t, verdicts[0], Answered, "x") // who comes once it is over
	// Its lock is where its answer is to go from, and the answer cannot be kept there.
	second := follow(t, verdicts[1])
	eventually(t, "it is followed", func() bool {
		follower.watches.mu.Lock()
		defer follower.watches.mu.Unlock()
		return len(follower.watches.all) == 2
	})
	grants[1].Share([]byte("x"))
	grants[1].Release(0)
	expectEnding(t, second, Unshareable, "")
	nodes.MoveSlot("{slack}", from, to)
	grants[2].Share([]byte("x"))
	grants[2].Release(0)
	expectEnding(t, last, Answered, "x")
}
