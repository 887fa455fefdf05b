package cluster

import (
	"context"
	"strconv"
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
