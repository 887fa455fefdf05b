package cluster

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

// command is an EVALSHA that is being written: first its keys, then its
// arguments. They are words in one piece of memory, since each by itself would
// cost an allocation or two.
type command struct {
	prefix string // of every key
	text   []byte
	ends   []int // of the words in text
	keys   int   // how many words are keys
}

// commands lends the memory in which commands are written.
var commands = sync.Pool{New: func() any { return new(command) }}

// newCommand returns a command to be written, and to be given back by done.
func newCommand(prefix string) *command {
	c := commands.Get().(*command)
	*c = command{prefix: prefix, text: c.text[:0], ends: c.ends[:0]}
	return c
}

func (c *command) done() {
	const usual = 64 << 10 // bytes at most that are kept: answers are longer
	if cap(c.text) > usual {
		c.text = nil
	}
	commands.Put(c)
}

// beginKey writes what every key begins with. The rest, and endKey, follow.
func (c *command) beginKey() {
	c.text = append(append(append(append(c.text, c.prefix...), ':'), keyFormat...), ':')
}

func (c *command) endKey() {
	c.ends = append(c.ends, len(c.text))
	c.keys++
}

// endArg makes an argument of what was written as a key.
func (c *command) endArg() { c.ends = append(c.ends, len(c.text)) }

// arg writes an argument.
func (c *command) arg(s string) {
	c.text = append(c.text, s...)
	c.ends = append(c.ends, len(c.text))
}

// number writes an argument.
func (c *command) number(n int64) {
	c.text = strconv.AppendInt(c.text, n, 10)
	c.ends = append(c.ends, len(c.text))
}

// count writes how many there are of what there may be one of.
func (c *command) count(one bool) {
	if one {
		c.number(1)
	} else {
		c.number(0)
	}
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

// What a script is run by: its hash, or its source.
const evalSHA, eval = "evalsha", "eval"

// cmd returns what is sent to run a script. name is that of the command, and by
// the script's hash or source.
func (c *command) cmd(ctx context.Context, name any, by *string) *redis.Cmd {
	text, words := string(c.text), make([]string, len(c.ends))
	args := append(make([]any, 0, 3+len(words)), name, by, c.keys)
	begin := 0
	for i, end := range c.ends {
		words[i], begin = text[begin:end], end
		args = append(args, &words[i])
	}
	cmd := redis.NewCmd(ctx, args...)
	cmd.SetFirstKeyPos(3)
	return cmd
}
