package launch

import (
	"maps"
	"net/url"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// EnvConfig says what a command's environment is made of.
type EnvConfig struct {
	Environ  []string // the user's
	Files    *Files
	ProxyURL string // http://127.0.0.1:PORT, or with user and password
	// Placeholders are the variables of the session's secrets: a placeholder
	// each, or the value that the rules say is delivered.
	Placeholders map[string]string
	// Carriers are the variables that rules and catalog name as carrying a
	// secret. Those that are no placeholder now are removed.
	Carriers []string
	Hosts    []string // intercepted hosts: NO_PROXY must not cover them
	// Inherit lists variables that are kept although they look like
	// credentials; InheritAll keeps every one.
	Inherit    []string
	InheritAll bool
	// Session and ControlSocket tell the command where it runs, if not empty.
	Session, ControlSocket string
}

// Variables of our own. Their names avoid what agents filter: KEY, TOKEN,
// SECRET, CERT, AUTH.
const (
	SessionVariable = "STANDIN_SESSION"
	ControlVariable = "STANDIN_CONTROL"
)

// TokenVariable holds a one-time token that opens a session. The command never
// gets it.
const TokenVariable = "STANDIN_TOKEN"

// Mark is the entry of a command's environment that names its session. Helpers
// of the gateway do not have it.
func Mark(session string) string { return SessionVariable + "=" + session }

// proxyVariables hold the proxy's URL. Both cases: wget, gRPC and Ruby read
// the small ones only.
var proxyVariables = []string{
	"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "grpc_proxy", "wss_proxy", "ws_proxy",
	"YARN_HTTPS_PROXY", "YARN_HTTP_PROXY",
}

// bundleVariables name the file of all roots. Most tools replace theirs by it.
var bundleVariables = []string{
	"SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "AWS_CA_BUNDLE", "GIT_SSL_CAINFO",
	"CARGO_HTTP_CAINFO", "NIX_SSL_CERT_FILE", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "HTTPLIB2_CA_CERTS",
	"CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE", "BUNDLE_SSL_CA_CERT", "HEX_CACERTS_PATH", "PERL_LWP_SSL_CA_FILE",
	"COMPOSER_CAFILE", "npm_config_cafile", "YARN_HTTPS_CA_FILE_PATH", "CODEX_CA_CERTIFICATE",
}

// caVariables name the file of the session's authority; these tools add it.
var caVariables = []string{"NODE_EXTRA_CA_CERTS", "DENO_CERT"}

// dropped never reach the command: an inherited socks proxy breaks clients,
// and the others lead to the vault or belong to the gateway's own start.
var dropped = []string{"ALL_PROXY", "all_proxy", "STANDIN_PASSPHRASE_FILE", "STANDIN_ENVIRONMENT_FD", TokenVariable}

// ownVariables are set as well, each in its own way.
var ownVariables = []string{
	"NO_PROXY", "no_proxy", "NODE_USE_ENV_PROXY", "NODE_OPTIONS", "JAVA_TOOL_OPTIONS", "GIT_HTTP_PROXY_AUTHMETHOD", "GIT_CONFIG_GLOBAL",
	"PHP_INI_SCAN_DIR", "WGETRC", "AIOHTTP_TRUST_ENV",
}

// basicVariables are those without which hardly a program runs.
var basicVariables = []string{
	"PATH", "HOME", "USER", "LOGNAME", "SHELL", "PWD", "TMPDIR", "TERM", "LANG", "LC_ALL", "IFS", "LD_PRELOAD", "LD_LIBRARY_PATH", "XDG_RUNTIME_DIR",
}

// Reserved says why a variable cannot carry a secret, "" if it can: Environ sets
// or removes it itself, or programs need it for something else.
func Reserved(name string) string {
	if runtime.GOOS == "windows" { // where names have no case
		name = strings.ToUpper(name)
	}
	switch {
	case strings.HasPrefix(name, "STANDIN_"):
		return "Standin's own variables begin so"
	case slices.Contains(basicVariables, name):
		return "programs do not run without their own"
	}
	for _, list := range [][]string{proxyVariables, bundleVariables, caVariables, ownVariables, dropped} {
		if slices.Contains(list, name) {
			return "Standin sets it itself, to lead programs through the gateway"
		}
	}
	return ""
}

// Withheld says that a variable never reaches the command, whoever sets it.
func Withheld(name string) bool { return slices.Contains(dropped, name) }

// environ is an environment by name.
type environ map[string]string

// parseEnviron lets the last of two entries win, as programs do.
func parseEnviron(entries []string) environ {
	env := make(environ, len(entries))
	for _, entry := range entries {
		// Windows has names that begin with "=".
		if i := strings.IndexByte(entry, '='); i >= 0 {
			if i == 0 {
				if i = strings.IndexByte(entry[1:], '=') + 1; i == 0 {
					continue
				}
			}
			env[entry[:i]] = entry[i+1:]
		}
	}
	return env
}

func (e environ) set(value string, names ...string) {
	for _, name := range names {
		e[name] = value
	}
}

// Environ returns the command's environment, sorted, and the names of the
// user's variables that the command does not get.
func Environ(cfg EnvConfig) (env []string, removed []string) {
	user := parseEnviron(cfg.Environ)
	out := maps.Clone(user)
	carriers := make(map[string]bool, len(cfg.Carriers))
	for _, name := range cfg.Carriers {
		carriers[name] = true
	}
	gitSecret := gitCarries(user)
	for name, value := range user {
		inherited := cfg.InheritAll || slices.Contains(cfg.Inherit, name)
		if Withheld(name) || !inherited && (isCredential(name, value, carriers) || gitSecret && isGitConfig(name)) {
			delete(out, name)
		}
	}
	maps.Copy(out, cfg.Placeholders)
	out.set(cfg.ProxyURL, proxyVariables...)
	out.set(noProxy(user, cfg.Hosts), "NO_PROXY", "no_proxy")
	out.set(cfg.Files.Path(bundleFile), bundleVariables...)
	out.set(cfg.Files.Path(caFile), caVariables...)
	out["NODE_USE_ENV_PROXY"] = "1"
	out["NODE_OPTIONS"] = appendOption(user["NODE_OPTIONS"], nodeRequire(cfg.Files.Path(preloadFile)))
	out["JAVA_TOOL_OPTIONS"] = appendOption(user["JAVA_TOOL_OPTIONS"], javaOptions(cfg)...)
	out["GIT_HTTP_PROXY_AUTHMETHOD"] = "basic"
	out["GIT_CONFIG_GLOBAL"] = cfg.Files.Path(gitconfigFile)
	// The empty entry before the colon is PHP's own directory.
	out["PHP_INI_SCAN_DIR"] = user["PHP_INI_SCAN_DIR"] + string(filepath.ListSeparator) + cfg.Files.Path(phpDir)
	out["WGETRC"] = cfg.Files.Path(wgetrcFile)
	out["AIOHTTP_TRUST_ENV"] = "True"
	for name, value := range map[string]string{SessionVariable: cfg.Session, ControlVariable: cfg.ControlSocket} {
		if value != "" {
			out[name] = value
		} else {
			delete(out, name)
		}
	}
	for name := range user {
		if _, ok := out[name]; !ok {
			removed = append(removed, name)
		}
	}
	for name, value := range out {
		env = append(env, name+"="+value)
	}
	slices.Sort(env)
	slices.Sort(removed)
	return env, removed
}

func appendOption(existing string, options ...string) string {
	return strings.TrimSpace(existing + " " + strings.Join(options, " "))
}

// nodeRequire quotes the path as Node reads it: a space would end it.
func nodeRequire(path string) string {
	path = filepath.ToSlash(path)
	return `--require="` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(path) + `"`
}

// javaOptions are printed by every JVM at its start, so they hold no
// credentials: Java could not send them to a proxy anyway.
func javaOptions(cfg EnvConfig) []string {
	options := []string{
		"-Djavax.net.ssl.trustStore=" + javaQuote(cfg.Files.Path(truststoreFile)),
		"-Djavax.net.ssl.trustStoreType=PKCS12",
	}
	proxy, err := url.Parse(cfg.ProxyURL)
	if err != nil || proxy.Hostname() == "" {
		return options
	}
	var direct []string
	for _, pattern := range []string{"localhost", "127.*", "[::1]"} {
		if !covers(pattern, cfg.Hosts) {
			direct = append(direct, pattern)
		}
	}
	host, port := proxy.Hostname(), proxy.Port()
	if port == "" {
		port = "80"
	}
	return append([]string{
		"-Dhttp.proxyHost=" + host, "-Dhttp.proxyPort=" + port,
		"-Dhttps.proxyHost=" + host, "-Dhttps.proxyPort=" + port,
		"-Dhttp.nonProxyHosts=" + strings.Join(direct, "|"),
	}, options...)
}

// javaQuote protects white space; the JVM takes either quote and no escape.
func javaQuote(s string) string {
	switch {
	case !strings.ContainsAny(s, " \t\n'\""):
		return s
	case !strings.Contains(s, `"`):
		return `"` + s + `"`
	default:
		return "'" + s + "'"
	}
}
