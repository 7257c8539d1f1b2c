//! The kernel modules that a topology may need, as a closed set.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::edit::{JsonNames, KeyedEdit, Present, SettingKind, Verbs, in_set};

macro_rules! modules {
    ($($variant:ident $name:literal $doc:literal),+ $(,)?) => {
        /// A kernel module that something in a topology needs.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Module {
            $(#[doc = $doc] $variant),+
        }

        impl Module {
            /// Every one.
            pub const ALL: &[Module] = &[$(Self::$variant),+];

            /// The name for modprobe.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name),+
                }
            }
        }
    };
}

modules! {
    IpVs "ip_vs" "IPVS itself; its schedulers are loaded by the kernel as services ask for them.",
    IpVsFtp "ip_vs_ftp" "Lets active and passive FTP through NAT.",
    Ipip "ipip" "IPv4 in IPv4: brings `tunl0`.",
    Ip6Tnl "ip6_tunnel" "Anything in IPv6: brings `ip6tnl0`.",
    Sit "sit" "IPv6 in IPv4: brings `sit0`.",
    IpGre "ip_gre" "GRE over IPv4: brings `gre0`, `gretap0` and `erspan0`.",
    Ip6Gre "ip6_gre" "GRE over IPv6: brings `ip6gre0`.",
    Fou "fou" "UDP encapsulation over IPv4.",
    Fou6 "fou6" "UDP encapsulation over IPv6.",
    NfTables "nf_tables" "Packet rules.",
}

impl Module {
    /// The wildcard device that comes with it, down, and takes wrapped packets once it is up.
    pub fn device(self) -> Option<&'static str> {
        match self {
            Self::Ipip => Some("tunl0"),
            Self::Ip6Tnl => Some("ip6tnl0"),
            Self::Sit => Some("sit0"),
            Self::IpGre => Some("gre0"),
            Self::Ip6Gre => Some("ip6gre0"),
            Self::IpVs | Self::IpVsFtp | Self::Fou | Self::Fou6 | Self::NfTables => None,
        }
    }
}

impl fmt::Display for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl SettingKind for Module {
    type Key = Self;
    type Value = Present;
    const VERBS: Verbs = Verbs { add: Some("load"), change: None, remove: None };
    const JSON: JsonNames = JsonNames { tags: ["load_module", "", ""], key: "module", value: "" };
    in_set!(modules, Module);

    fn write(edit: &KeyedEdit<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} module {}", edit.verb_text(), edit.key)
    }
}
