package netns

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A socket in the file system is reachable from every network namespace, so it
// has to be out of sight. Where such sockets usually lie the whole folder is
// hidden, with those that will be made there later; elsewhere each one that is
// there.

// variable is the value of a variable in an environment, "" if unset.
func variable(environ []string, name string) string {
	for i := len(environ) - 1; i >= 0; i-- {
		if value, ok := strings.CutPrefix(environ[i], name+"="); ok {
			return value
		}
	}
	return ""
}

// temporaries are the folders in which programs make sockets for all to find.
func temporaries(environ []string) []string {
	dirs := []string{"/tmp", "/var/tmp"}
	for _, name := range []string{"TMPDIR", "TMUX_TMPDIR"} {
		if dir := variable(environ, name); filepath.IsAbs(dir) {
			dirs = append(dirs, filepath.Clean(dir))
		}
	}
	return dirs
}

// socketFolders are the folders that exist for sockets.
func socketFolders(environ []string) []string {
	candidates := []string{"/run", "/var/run", variable(environ, "XDG_RUNTIME_DIR")}
	for _, dir := range temporaries(environ) {
		for _, pattern := range []string{".X11-unix", ".ICE-unix", ".XIM-unix", "tmux-*", "ssh-*", "dbus-*", ".vnc-*", "uscreens", "screens"} {
			found, _ := filepath.Glob(filepath.Join(dir, pattern)) // a fixed pattern
			candidates = append(candidates, found...)
		}
	}
	if home := variable(environ, "HOME"); home != "" {
		for _, name := range []string{".docker/run", ".docker/desktop", ".colima/default", ".orbstack/run", ".screen", ".emacs.d/server", ".1password"} {
			candidates = append(candidates, filepath.Join(home, name))
		}
	}
	// The folder of the agent's socket is its own, wherever it is.
	if path := variable(environ, "SSH_AUTH_SOCK"); strings.HasPrefix(filepath.Base(filepath.Dir(path)), "ssh-") {
		candidates = append(candidates, filepath.Dir(path))
	}
	var dirs []string
	for _, dir := range candidates {
		if !filepath.IsAbs(dir) {
			continue
		}
		// A link (/var/run) leads to a folder that is on the list itself.
		if info, err := os.Lstat(dir); err == nil && info.IsDir() {
			dirs = append(dirs, filepath.Clean(dir))
		}
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// findSockets returns the sockets of other programs that this process can find:
// those that the kernel lists for this network, those that the environment
// names, and those that lie near.
func findSockets(environ []string, near []string) []string {
	found := slices.Concat(listedSockets(), namedSockets(environ), near)
	found = slices.DeleteFunc(found, func(path string) bool {
		info, err := os.Stat(path)
		return err != nil || info.Mode()&fs.ModeSocket == 0
	})
	slices.Sort(found)
	return slices.Compact(found)
}

// lookAround finds the sockets near the working directory, the home and the
// temporaries. It may take some milliseconds.
func lookAround(environ []string, dir string) (found []string) {
	for _, top := range append(temporaries(environ), dir, variable(environ, "HOME")) {
		if filepath.IsAbs(top) && top != "/" {
			found = append(found, nearSockets(top)...)
		}
	}
	return found
}

// listedSockets are those that /proc/net/unix names by an absolute path.
func listedSockets() (found []string) {
	table, err := os.ReadFile("/proc/self/net/unix")
	if err != nil {
		return nil
	}
	const columns = 7 // before the path, which may hold spaces
	for line := range strings.Lines(string(table)) {
		rest := strings.TrimSuffix(line, "\n")
		for range columns {
			_, rest, _ = strings.Cut(strings.TrimLeft(rest, " "), " ")
		}
		if filepath.IsAbs(rest) {
			found = append(found, filepath.Clean(rest))
		}
	}
	return found
}

// namedSockets are the paths in an environment: SSH_AUTH_SOCK, DOCKER_HOST,
// DBUS_SESSION_BUS_ADDRESS, TMUX and others write them in ways of their own.
func namedSockets(environ []string) (found []string) {
	for _, entry := range environ {
		_, value, _ := strings.Cut(entry, "=")
		for _, part := range strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ';' || r == '=' }) {
			part = strings.TrimPrefix(part, "unix:")
			if strings.HasPrefix(part, "//") {
				part = part[1:]
			}
			part = strings.TrimPrefix(part, "/") // unix:///path has three
			if part = "/" + part; strings.Contains(value, part) && len(part) > 1 {
				found = append(found, filepath.Clean(part))
			}
		}
	}
	return found
}

// Bounds of the look around: folders that are read, and levels. What the kernel
// lists needs none of it; this finds what was bound by a relative path, or in
// another network.
const (
	maxFolders = 300
	maxLevels  = 2
)

// nearSockets looks through a folder and what is close below it.
func nearSockets(top string) (found []string) {
	level := []string{top}
	read := 0
	for range maxLevels {
		var below []string
		for _, dir := range level {
			if read++; read > maxFolders {
				return found
			}
			entries, err := os.ReadDir(dir)
			if err != nil {
				continue // nor can the command look into it
			}
			for _, e := range entries {
				switch path := filepath.Join(dir, e.Name()); {
				case e.Type()&fs.ModeSocket != 0:
					found = append(found, path)
				case e.IsDir() && !slices.Contains([]string{"node_modules", ".git", ".cache"}, e.Name()):
					below = append(below, path)
				}
			}
		}
		level = below
	}
	return found
}
