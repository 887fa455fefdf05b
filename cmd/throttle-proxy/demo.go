package main

type demoCommand struct{}

// Run is the demo.
func (demoCommand) Run(p *process) error { return nil }
