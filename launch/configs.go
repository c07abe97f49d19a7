package launch

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// gitConfig takes the place of the user's own configuration and includes it.
// The variables of git's environment are weaker than a proxy that the user
// configured, and GIT_CONFIG_COUNT breaks every git command as soon as some
// sandbox drops one of its variables for having KEY in its name.
func gitConfig(cfg FilesConfig, env environ) ([]byte, error) {
	var out bytes.Buffer
	for _, path := range userGitConfigs(env) {
		fmt.Fprintf(&out, "[include]\n\tpath = %s\n", gitQuote(path))
	}
	proxy := func(section string) {
		fmt.Fprintf(&out, "[%s]\n\tproxy = %s\n\tproxyAuthMethod = basic\n\tsslCAInfo = %s\n",
			section, gitQuote(cfg.ProxyURL), gitQuote(filepath.Join(cfg.Dir, bundleFile)))
	}
	proxy("http")
	for _, host := range cfg.Hosts {
		// What the user set for one host is stronger than what is set for all.
		proxy("http " + gitQuote("https://"+bracket(host)))
	}
	for _, host := range cfg.GitHosts {
		if host.Username == "" {
			host.Username = "x-access-token"
		}
		for _, text := range []string{host.Host, host.Username, host.Placeholder} {
			if text == "" || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
				return nil, fmt.Errorf("make git credential for %q: empty or with control characters", host.Host)
			}
		}
		site := gitQuote("https://" + host.Host)
		// An empty helper forgets all those before it, an empty header all
		// headers: else git would hand out or send the real token.
		fmt.Fprintf(&out, "[credential %s]\n\thelper =\n\thelper = %s\n[http %s]\n\textraHeader =\n",
			site, gitQuote(credentialHelper(host)), site)
	}
	return out.Bytes(), nil
}

// credentialHelper answers "get", and forgets what "store" and "erase" say.
func credentialHelper(c GitCredential) string {
	return fmt.Sprintf(`!f() { test "$1" != get || printf '%%s\n' %s %s; }; f`,
		shellQuote("username="+c.Username), shellQuote("password="+c.Placeholder))
}

// userGitConfigs are the files that git would have read as the user's.
func userGitConfigs(env environ) []string {
	if path, ok := env["GIT_CONFIG_GLOBAL"]; ok {
		if path == "" || !filepath.IsAbs(path) {
			return nil
		}
		return []string{path}
	}
	home := env["HOME"]
	var paths []string
	if dir := env["XDG_CONFIG_HOME"]; filepath.IsAbs(dir) {
		paths = append(paths, filepath.Join(dir, "git", "config"))
	} else if filepath.IsAbs(home) {
		paths = append(paths, filepath.Join(home, ".config", "git", "config"))
	}
	if filepath.IsAbs(home) {
		paths = append(paths, filepath.Join(home, ".gitconfig"))
	}
	return paths
}

func gitQuote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`).Replace(s) + `"`
}

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// bracket makes a host fit for a URL.
func bracket(host string) string {
	if strings.Contains(host, ":") && !strings.HasPrefix(host, "[") {
		return "[" + host + "]"
	}
	return host
}

func phpConfig(bundle string) []byte {
	return fmt.Appendf(nil, "curl.cainfo=\"%s\"\nopenssl.cafile=\"%s\"\n", bundle, bundle)
}

// wgetConfig is the user's own file, which WGETRC replaces, without what would
// lead past the proxy and without passwords: those must not lie in a second
// place that outlives the session.
func wgetConfig(bundle string, env environ) []byte {
	path := env["WGETRC"]
	if path == "" && filepath.IsAbs(env["HOME"]) {
		path = filepath.Join(env["HOME"], ".wgetrc")
	}
	var out bytes.Buffer
	if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Size() < 1<<20 {
		data, _ := os.ReadFile(path)
		for line := range strings.Lines(string(data)) {
			if !wgetDrops(line) {
				out.WriteString(strings.TrimRight(line, "\r\n") + "\n")
			}
		}
	}
	fmt.Fprintf(&out, "ca_certificate = %s\n", bundle)
	return out.Bytes()
}

func wgetDrops(line string) bool {
	name, value, _ := strings.Cut(line, "=")
	// wget takes case, "-" and "_" in names as nothing.
	name = strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(strings.TrimSpace(name)))
	switch {
	case strings.HasSuffix(name, "proxy"), strings.HasPrefix(name, "proxy"), name == "cacertificate", name == "cadirectory":
		return true
	case strings.Contains(name, "passw"):
		return true
	case name == "header":
		header, _, _ := strings.Cut(strings.TrimSpace(value), ":")
		header = strings.ToLower(header)
		return strings.Contains(header, "auth") || strings.Contains(header, "cookie") || strings.Contains(header, "token") || strings.Contains(header, "key")
	}
	return false
}
