//! `ipvsadm -L` prints a listing for people, which is no rules file: it is told apart, so that the
//! message can say what to do.

/// Whether a line that starts with this word is from a listing.
pub(super) fn starts_with(word: &str) -> bool {
    matches!(word, "IP" | "Prot" | "->" | "TCP" | "UDP" | "SCTP" | "FWM")
}

/// For the remark.
pub(super) const WHY: &str = "this is from the listing of `ipvsadm -L`, which leaves out what a rule needs; \
     import the output of `ipvsadm -Sn`, or the host itself with `import --from`";
