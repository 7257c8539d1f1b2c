//! The kinds of settings: one list, from which the closed sets of edits and items follow.
//!
//! A new kind needs a line here, a field of [`HostState`], and a [`SettingKind`] beside its type.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::edit::{EditVerb, InEdit, KeyedEdit, Misfit, SettingKind, Verbs};
use super::{
    Address, AddressKey, DaemonConfiguration, DaemonInstance, DaemonRole, Destination, GuePort,
    HostState, Link, Module, PacketRules, Route, RouteKey, ServiceKey, SyncDaemon, Sysctl,
    TableName, Timeouts, TunnelDevice, VirtualService, edit_json,
};
use crate::names::IfName;

/// What is ours to change: nothing outside it is touched.
pub type Owned = BTreeSet<Item>;

/// The key of a kind that has only one setting.
macro_rules! key_or_unit {
    () => {
        ()
    };
    ($key:expr) => {
        $key.clone()
    };
}

macro_rules! settings {
    (
        items { $($(#[$doc:meta])* $item:ident $(($key:ident: $key_type:ty))? = $setting:ty, $name:literal;)+ }
        parts { $($(#[$part_doc:meta])* $part:ident = $part_setting:ty;)* }
    ) => {
        /// Names one thing of a [`HostState`]. A service stands for all its destinations.
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Item {
            $($(#[$doc])* $item $(($key_type))?,)+
        }

        /// What can be done to a host: one edit of one setting.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Edit {
            $($(#[$doc])* $item(KeyedEdit<$setting>),)+
            $($(#[$part_doc])* $part(KeyedEdit<$part_setting>),)*
        }

        $(settings!(@in_edit $item $setting);)+
        $(settings!(@in_edit $part $part_setting);)*

        impl fmt::Display for Item {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$item $(($key))? => {
                        f.write_str($name)?;
                        $(write!(f, "{}", $key)?;)?
                        Ok(())
                    })+
                }
            }
        }

        impl Item {
            /// What the kernel can do with it.
            pub fn verbs(&self) -> Verbs {
                match self {
                    $(Self::$item $(($key))? => {
                        $(let _ = $key;)?
                        <$setting as SettingKind>::VERBS
                    })+
                }
            }
        }

        impl Edit {
            /// The edit that gives `item` its value in `to`; `None` where that is its value in `from`.
            pub fn of_item(item: &Item, from: &HostState, to: &HostState) -> Option<Self> {
                match item {
                    $(Item::$item $(($key))? => {
                        Self::between_states::<$setting>(&key_or_unit!($($key)?), from, to)
                    })+
                }
            }
        }

        impl HostState {
            /// Everything that this state speaks of.
            pub fn items(&self) -> Owned {
                let mut all = Owned::new();
                $(all.extend(<$setting as SettingKind>::keys(self).iter().map(<$setting as SettingKind>::item));)+
                all
            }

            /// Makes `item` here what it is in `other`: the same value, or absent.
            pub fn copy_item(&mut self, item: &Item, other: &Self) {
                match item {
                    $(Item::$item $(($key))? => {
                        <$setting as SettingKind>::copy(self, &key_or_unit!($($key)?), other);
                    })+
                }
            }

            /// The value of `item`, in one line for people; `absent` where it has none.
            pub fn describe(&self, item: &Item) -> String {
                let text = match item {
                    $(Item::$item $(($key))? => {
                        <$setting as SettingKind>::describe(self, &key_or_unit!($($key)?))
                    })+
                };
                text.unwrap_or_else(|| "absent".to_owned())
            }
        }

        impl Edit {
            /// The item that it is about. A destination is part of its service.
            pub fn item(&self) -> Item {
                match self {
                    $(Self::$item(edit) => <$setting as SettingKind>::item(&edit.key),)+
                    $(Self::$part(edit) => <$part_setting as SettingKind>::item(&edit.key),)*
                }
            }

            /// Names the setting, finer than [`Edit::item`]: a destination by itself, as its service may be
            /// right while the destination is not.
            pub fn precise_name(&self) -> String {
                match self {
                    $(Self::$item(edit) => <$setting as SettingKind>::precise_name(&edit.key),)+
                    $(Self::$part(edit) => <$part_setting as SettingKind>::precise_name(&edit.key),)*
                }
            }

            /// What it does.
            pub fn verb(&self) -> EditVerb {
                match self {
                    $(Self::$item(edit) => edit.verb(),)+
                    $(Self::$part(edit) => edit.verb(),)*
                }
            }

            /// What undoes it; `None` where the kernel cannot: a module stays.
            pub fn inverse(&self) -> Option<Self> {
                match self {
                    $(Self::$item(edit) => edit.inverse().map(Self::$item),)+
                    $(Self::$part(edit) => edit.inverse().map(Self::$part),)*
                }
            }

            /// Whether `state` is as this leaves it.
            pub fn is_done(&self, state: &HostState) -> bool {
                match self {
                    $(Self::$item(edit) => edit.is_done(state),)+
                    $(Self::$part(edit) => edit.is_done(state),)*
                }
            }

            /// Why it cannot be done in `state`; `None`: it can.
            pub fn misfit(&self, state: &HostState) -> Option<Misfit> {
                match self {
                    $(Self::$item(edit) => edit.misfit(state),)+
                    $(Self::$part(edit) => edit.misfit(state),)*
                }
            }

            /// Gives the setting its value afterwards in `state`, whatever it is now, and nothing else.
            pub fn put(&self, state: &mut HostState) {
                match self {
                    $(Self::$item(edit) => edit.put(state),)+
                    $(Self::$part(edit) => edit.put(state),)*
                }
            }
        }

        impl fmt::Display for Edit {
            /// One line: what is done to what, with before and after.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$item(edit) => edit.fmt(f),)+
                    $(Self::$part(edit) => edit.fmt(f),)*
                }
            }
        }

        impl Serialize for Edit {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match self {
                    $(Self::$item(edit) => edit_json::write(edit, serializer),)+
                    $(Self::$part(edit) => edit_json::write(edit, serializer),)*
                }
            }
        }

        impl Edit {
            fn read(tag: &str, members: JsonMembers) -> Result<Self, serde_json::Error> {
                $(if <$setting as SettingKind>::JSON.has(tag) {
                    return edit_json::read(tag, members).map(Self::$item);
                })+
                $(if <$part_setting as SettingKind>::JSON.has(tag) {
                    return edit_json::read(tag, members).map(Self::$part);
                })*
                Err(de::Error::custom(format!("unknown edit `{tag}`")))
            }
        }
    };
    (@in_edit $variant:ident $setting:ty) => {
        impl InEdit for $setting {
            fn into_edit(edit: KeyedEdit<Self>) -> Edit {
                Edit::$variant(edit)
            }

            fn from_edit(edit: &Edit) -> Option<&KeyedEdit<Self>> {
                if let Edit::$variant(edit) = edit { Some(edit) } else { None }
            }

            fn from_edit_mut(edit: &mut Edit) -> Option<&mut KeyedEdit<Self>> {
                if let Edit::$variant(edit) = edit { Some(edit) } else { None }
            }
        }
    };
}

settings! {
    items {
        /// A kernel module. Others may have come to use it, so it is never unloaded.
        Module(key: Module) = Module, "module ";
        /// A value under /proc/sys.
        Sysctl(key: Sysctl) = Sysctl, "";
        /// An interface, up or down.
        Link(key: IfName) = Link, "link ";
        /// An address on an interface.
        Address(key: AddressKey) = Address, "address ";
        /// A route of the main table; it is replaced without a moment without one.
        Route(key: RouteKey) = Route, "route ";
        /// An IPVS service. An edit is of its settings alone; its destinations and connections stay.
        Service(key: ServiceKey) = VirtualService, "service ";
        /// The timeouts of IPVS; connections keep theirs until their next packet.
        Timeouts = Timeouts, "timeouts of IPVS";
        /// A sync daemon; the kernel changes none that runs, so it is restarted.
        Daemon(key: DaemonRole) = SyncDaemon, "sync daemon ";
        /// An nftables table, replaced as a whole in one transaction.
        Table(key: TableName) = PacketRules, "nftables table ";
        /// A tunnel device of lvsprov's own making; it is made down.
        Tunnel(key: IfName) = TunnelDevice, "tunnel ";
        /// A port where GUE packets are unwrapped.
        GuePort(key: GuePort) = GuePort, "GUE port ";
        /// A daemon of lvsprov's own starting, with its configuration; a change keeps the process.
        Instance(key: DaemonInstance) = DaemonConfiguration, "";
    }
    parts {
        /// A destination of an IPVS service; a change keeps its connections.
        Destination = Destination;
    }
}

type JsonMembers = serde_json::Map<String, serde_json::Value>;

impl<'de> Deserialize<'de> for Edit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut whole = BTreeMap::<String, JsonMembers>::deserialize(deserializer)?;
        match (whole.pop_first(), whole.is_empty()) {
            (Some((tag, members)), true) => Self::read(&tag, members).map_err(de::Error::custom),
            _ => Err(de::Error::custom("an edit has one member, whose name says what it does")),
        }
    }
}

impl HostState {
    /// The part of this state that `owned` names.
    #[must_use]
    pub fn restricted_to(&self, owned: &Owned) -> Self {
        let mut part = Self::default();
        for item in owned {
            part.copy_item(item, self);
        }
        part
    }

    /// Whether `item` is otherwise in `other`: another value, or only in one of them.
    pub fn differs(&self, other: &Self, item: &Item) -> bool {
        let (mut here, mut there) = (Self::default(), Self::default());
        here.copy_item(item, self);
        there.copy_item(item, other);
        here != there
    }
}
