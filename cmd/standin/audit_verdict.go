package main

import (
	"errors"
	"fmt"
	"strings"

	"standin/audit"
)

// verdict makes the exit code of a report.
func verdict(r *audit.Report, export bool) error {
	if fault == "verify" {
		return nil
	}
	switch r.Code {
	case audit.Whole:
		return nil
	case audit.Tampered:
		first := r.Problems[0]
		whole := "keep the files as they are, and see \"standin audit recover --help\""
		if export {
			whole = "keep the file as it is, and check the log that it was made from: standin audit verify"
		}
		for _, s := range r.Streams {
			if s.Stream == first.Stream && s.Records > 0 {
				whole = fmt.Sprintf("records 1 to %d are whole; %s", s.Records, whole)
			}
		}
		return exitError(r.Code, &hinted{fmt.Errorf("verify audit: %s", first), whole})
	case audit.OrderOnly:
		return exitError(r.Code, &hinted{fmt.Errorf("verify audit: the order of %d records holds, but no MAC was checked", r.Records),
			"give the recovery key: standin audit verify --recovery-key-file FILE"})
	case audit.Torn:
		return exitError(r.Code, &hinted{fmt.Errorf("verify audit: %d records are whole, and a last one is unfinished, as a crash leaves it; %s", r.Records, behindAnchors(r)),
			"who cuts the end off can leave the same; give anchors that were kept elsewhere: standin audit verify --receipt FILE"})
	}
	return exitError(r.Code, unproven(r, export))
}

// unproven says what keeps a log in which nothing is wrong from being whole, and
// what would help.
func unproven(r *audit.Report, export bool) error {
	text := fmt.Sprintf("verify audit: %d records are whole", r.Records)
	var lacks, give []string
	switch {
	case export && (r.Unproven > 0 || r.LeftOut):
		text += ", as far as they go"
		lacks = append(lacks, fmt.Sprintf("%d of them are unproven, and whole streams could have been left out of the export", r.Unproven))
		give = append(give, "export everything, and give the receipt of the newest session: standin audit verify --export FILE --receipt FILE")
	case r.Unproven > 0:
		lacks = append(lacks, behindAnchors(r))
		give = append(give, "give anchors that were kept elsewhere: standin audit verify --receipt FILE")
	}
	if r.Unvouched {
		lacks = append(lacks, "that streams were pruned, or moved aside by a recovery, is not vouched for")
		give = append(give, "let the vault say whether its owner did it: standin audit verify --vault")
	}
	if r.Unchecked > 0 {
		lacks = append(lacks, fmt.Sprintf("of streams that are gone, %s could not be confirmed", counted(r.Unchecked, "claim")))
		help := "look at the warnings, and keep the folders archive-… beside the log"
		if export {
			help = "check the receipts where the log is: standin audit verify --receipt FILE"
		}
		give = append(give, help)
	}
	if len(lacks) == 0 {
		lacks = append(lacks, openEnd(r))
		give = append(give, "see \"standin audit show\" for what came last")
	}
	return &hinted{errors.New(text + "; " + strings.Join(lacks, "; ")), strings.Join(give, "; ")}
}

// behindAnchors says how much of the end could be missing.
func behindAnchors(r *audit.Report) string {
	return fmt.Sprintf("%d of them are unproven: they lie after the newest anchor, where the end could have been cut off", r.Unproven)
}

// openEnd says of a log all of whose records are proven why it is not whole.
func openEnd(r *audit.Report) string {
	for _, s := range r.Streams {
		switch {
		case s.GivenUp > 0:
			return fmt.Sprintf("nothing vouches for %d bytes that failed writes of stream %s left behind", s.GivenUp, s.Stream)
		case !s.Sealed && !s.Live:
			return fmt.Sprintf("stream %s ended without a seal: records behind its last one could have been cut off", s.Stream)
		}
	}
	return "the log is empty"
}
