//go:build linux

package cases

func sectionB() []entry { return nil }
