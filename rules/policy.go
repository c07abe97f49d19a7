// Package rules reads the rules file and answers what it says: which hosts are
// intercepted, which rule decides a request, which secret may stand where.
//
// It does not resolve a secret, dial, substitute, keep time or decide whether
// a session holds a grant; but for Load and Find it touches no file.
//
// The invariant: a [Policy] exists only if the whole file was understood, and
// it never changes afterwards. Whatever cannot be read in exactly one way, in
// the file or in the name or path of a request, matches nothing.
package rules

import (
	"slices"
	"strings"
	"time"
)

// Kind is the kind of place in a request where a secret may stand.
type Kind uint8

// The kinds of surface, in the words of the rules file.
const (
	Header Kind = iota
	BasicUser
	BasicPassword
	Cookie
	Query
	Path
	Form
	JSON
	Multipart
	Body
	WebSocket
)

var kindNames = [...]string{"header", "basic user", "basic password", "cookie", "query", "path", "form", "json", "multipart", "body", "websocket"}

// String is the word of the rules file for k.
func (k Kind) String() string { return kindNames[k] }

// InBody reports whether the surface lies in the body of a request.
func (k Kind) InBody() bool { return k == Form || k == JSON || k == Multipart || k == Body }

// Surface is one place in a request. Name is the canonical header name, the
// name of a cookie, parameter or field, or a JSON pointer; "" where the kind
// needs none.
type Surface struct {
	Kind Kind
	Name string
}

// String is the surface as the rules file writes it.
func (s Surface) String() string {
	if s.Name == "" {
		return s.Kind.String()
	}
	return s.Kind.String() + " " + s.Name
}

// Substitution lets one secret stand at some surfaces.
type Substitution struct {
	Secret string
	In     []Surface
	line   int
}

// Scrub says whether responses under a rule are scrubbed.
type Scrub uint8

// ScrubDefault scrubs every response of a host with a grant.
const (
	ScrubDefault Scrub = iota
	ScrubAlways
	ScrubNever
)

// Misplaced says what happens to a placeholder in a body where no rule allows it.
type Misplaced uint8

// A misplaced placeholder in a body is inert, and is forwarded by default.
const (
	Forward Misplaced = iota
	Refuse
)

// ResponseCredentials says what happens to credentials that a response brings.
type ResponseCredentials uint8

// New credentials are passed on, and recorded, by default.
const (
	Pass ResponseCredentials = iota
	Strip
)

// DefaultReadFirst is how much of a body with a known length is read before
// anything is sent.
const DefaultReadFirst = 1 << 20

// Rule is one entry of the rules file. Without Substitute, Passthrough and Deny
// it intercepts its hosts to watch them.
type Rule struct {
	Name                string
	Hosts               []HostPattern
	Methods             []string      // empty: any
	Paths               []PathPattern // empty: any, ambiguous ones too
	Substitute          []Substitution
	Passthrough         bool
	Reason              string
	Raw                 bool // passthrough of what is not TLS
	Deny                bool
	Scheme              string // "https" or "http"
	WebSocket           bool
	Scrub               Scrub
	Misplaced           Misplaced
	ReadFirst           int64 // bytes
	ResponseCredentials ResponseCredentials
	Expires             time.Time // zero: never
	Line                int
}

// Expired reports whether the rule's time is over. An expired rule still
// matches, so that its requests do not fall to a wider rule; the caller refuses
// what it would have granted.
func (r *Rule) Expired(now time.Time) bool { return !r.Expires.IsZero() && !now.Before(r.Expires) }

// Intercepts reports whether the rule ends TLS at its hosts.
func (r *Rule) Intercepts() bool { return !r.Passthrough }

// Deliver says how the command gets a secret.
type Deliver uint8

// Wire is the rule, a placeholder; Env and File hand out the real value.
const (
	Wire Deliver = iota
	Env
	File
)

// String is the word of the rules file for d.
func (d Deliver) String() string { return [...]string{"wire", "env", "file"}[d] }

// Secret is a named credential, and where its value comes from. It never holds
// the value.
type Secret struct {
	Name        string
	Source      string // "vault:github/token"; the path of a file: source is absolute
	Shape       string
	Env         []string
	Deliver     Deliver
	Placeholder string // static, or ""
	MinLength   int    // 0: the vault's own
	Line        int
}

// Upstream says where a name is dialled and what vouches for it. Naming a host
// here also lets it have a private address. Paths are absolute.
type Upstream struct {
	Name                      Authority // Port 0: every port
	Dial                      string    // "host:port", or "": the name itself
	CA, ClientCert, ClientKey string
	Line                      int

	// A closure, as the key must not print from an unexported field.
	files func() (ca, cert, key []byte)
}

// Files is the content of CA, ClientCert and ClientKey that Hash was made over,
// nil where none is named. Reading the paths again could give other bytes than
// those that were trusted.
func (u *Upstream) Files() (ca, cert, key []byte) {
	if u.files == nil {
		return nil, nil, nil
	}
	return u.files()
}

// Source is the settings of one source of secrets: "exec:NAME", or a kind.
type Source struct {
	Name     string // "exec:op-read", "hcp"
	Kind     string // "exec", "hcp", "aws-sm", "op", "keyring"
	Command  []string
	Env      []string // names of variables that the command of an exec source gets
	Timeout  time.Duration
	TTL      time.Duration
	Settings map[string]string
	Line     int
}

// Profile is what one kind of session may have.
type Profile struct {
	Name       string
	Secrets    []string
	TTL        time.Duration
	Uses       int    // 0: without limit
	Isolation  string // "session", "tree", "netns"; "": the best there is
	Inherit    []string
	InheritAll bool
	Extends    string // "tree": the command and its children; "command"
	Line       int
}

// DefaultTTL is how long a grant lives where the profile does not say.
const DefaultTTL = 24 * time.Hour

// Unmatched says what happens to hosts that no rule names.
type Unmatched uint8

// UnmatchedPass relays them unopened.
const (
	UnmatchedPass Unmatched = iota
	UnmatchedRefuse
)

// NamedFile is a file that the rules name and that Hash covers.
type NamedFile struct{ Path, Hash string }

// Policy is a rules file that was understood as a whole. It is immutable and
// safe for concurrent use.
type Policy struct {
	Path      string
	Hash      string // hex SHA-256 over the file and every file it names
	Files     []NamedFile
	Secrets   map[string]*Secret
	Rules     []*Rule
	Upstreams map[string]*Upstream // by "host" or "host:port"
	Profiles  map[string]*Profile
	Sources   map[string]Source
	Unmatched Unmatched
	Empty     bool // no rules: grants nothing, and unless it says otherwise reaches nothing

	index index
}

// UnknownProfileError is returned for a profile that the file does not have.
type UnknownProfileError struct {
	Name  string
	Known []string
}

func (e *UnknownProfileError) Error() string {
	return "find profile " + quote(e.Name) + ": the rules have no such profile"
}

// Profile is the named profile; "" is "default", or, where the file has no
// profiles at all, one with every secret.
func (p *Policy) Profile(name string) (*Profile, error) {
	if name == "" && len(p.Profiles) == 0 {
		return &Profile{Name: "default", Secrets: p.secretNames(), TTL: DefaultTTL, Extends: "tree"}, nil
	}
	if name == "" {
		name = "default"
	}
	if found := p.Profiles[name]; found != nil {
		return found, nil
	}
	return nil, &UnknownProfileError{Name: name, Known: sortedKeys(p.Profiles)}
}

func (p *Policy) secretNames() []string { return sortedKeys(p.Secrets) }

func sortedKeys[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func quote(s string) string { return `"` + strings.ToValidUTF8(s, "\uFFFD") + `"` }
