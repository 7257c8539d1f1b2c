//! Recognises the listing of `ipvsadm -L`, which is not a rules file, for a message with the cure.

/// Whether a line that starts with this word is from a listing.
pub(super) fn starts_with(word: &str) -> bool {
    matches!(word, "IP" | "Prot" | "->" | "TCP" | "UDP" | "SCTP" | "FWM")
}

/// The reason for the remark.
pub(super) const WHY: &str = "this line is from the listing of `ipvsadm -L`, which is incomplete; \
     import the output of `ipvsadm -Sn`, or the host itself with `import --from`";
