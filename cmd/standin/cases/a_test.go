//go:build linux

package cases

func sectionA() []entry {
	return []entry{
		{"A01", func(c *Case) {
			c.S1().Each(Message{"GET", evil, "/", []string{"Authorization: Bearer " + c.P}, ""}, func(r *Response) {
				c.Refused(r, 403, "placeholder_misplaced")
			})
			c.U2.Nothing()
			c.Recorded(2, Want{"type": "deny", "code": "placeholder_misplaced", "host": evil})
		}},
	}
}
