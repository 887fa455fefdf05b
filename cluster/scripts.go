package cluster

import (
	_ "embed"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"throttle-proxy/limiter"
)

var (
	//go:embed guard.lua
	guardSource string
	//go:embed renew.lua
	renewSource string
	//go:embed release.lua
	releaseSource string
	//go:embed cooldown.lua
	cooldownSource string
	//go:embed pause.lua
	pauseSource string
	//go:embed charge.lua
	chargeSource string
	//go:embed refund.lua
	refundSource string
	//go:embed look.lua
	lookSource string
	//go:embed renewslots.lua
	renewSlotsSource string
	//go:embed freeslots.lua
	freeSlotsSource string
	//go:embed heartbeat.lua
	heartbeatSource string
	//go:embed weigh.lua
	weighSource string
	//go:embed control.lua
	controlSource string

	// guardScript decides any ask, plainGuardScript those of [Ask.isPlain], which most
	// are, and many at once: for less, since a Redis makes all functions of a script
	// anew whenever it runs it, and reads all arguments.
	guardScript      = newScript(budgetFunctions("spend", "reserve") + cooldownSource + limiter.Excerpt(guardSource, "whole"))
	plainGuardScript = newScript(budgetFunctions("spend") + cooldownSource + limiter.Excerpt(guardSource))

	renewScript     = newScript(renewSource)
	releaseScript   = newScript(releaseSource)
	pauseScript     = newScript(cooldownSource + pauseSource)
	chargeScript    = newScript(budgetFunctions("charge") + chargeSource)
	refundScript    = newScript(budgetFunctions("refund") + refundSource)
	heartbeatScript = newScript(heartbeatSource)
	controlScript   = newScript(controlSource)
	weighScript     = newScript(budgetFunctions("spend") + cooldownSource + weighSource)

	lookScript       = newScript(cooldownSource + lookSource)
	renewSlotsScript = newScript(renewSlotsSource)
	freeSlotsScript  = newScript(freeSlotsSource)
)

// budgetFunctions returns those of [limiter.Prelude] with these names. That there
// are any [NewRedis] has seen to.
func budgetFunctions(names ...string) string {
	source, _ := limiter.Prelude(names...)
	return source
}

// script is one of the cluster's.
type script struct {
	*redis.Script
	hash, source string
}

func newScript(source string) *script {
	s := redis.NewScript(source)
	return &script{s, s.Hash(), source}
}

// refusedAt is where in a script a user has no right to do something.
var refusedAt = regexp.MustCompile(`The user executing the script .*@user_script:(\d+)`)

// called is a command in a line of a script.
var called = regexp.MustCompile(`redis\.p?call\('([A-Z]+)'`)

// name returns err, an error of the script's run. Where the user has no right to a
// command, of which a Redis tells the line, it says which command that is.
func (s *script) name(err error) error {
	var reply redis.Error
	if !errors.As(err, &reply) {
		return err
	}
	at := refusedAt.FindStringSubmatch(reply.Error())
	if at == nil {
		return err
	}
	line, _ := strconv.Atoi(at[1])
	lines := strings.Split(s.source, "\n")
	if line < 1 || line > len(lines) {
		return err
	}
	if command := called.FindStringSubmatch(lines[line-1]); command != nil {
		return fmt.Errorf("the user has no right to +%s: %w", strings.ToLower(command[1]), err)
	}
	return err
}
