//! Keys of the field: parties, services, areas. All are strings, leading zeros count, nothing is repaired silently.
//!
//! Shapes: LeiKa, ARS and AGS as in FIT-Connect's routing API 2.0; OZG ids are five digits; directory organisation
//! keys are `prefix:id`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A key is malformed: which kind it should have been, and a hint for the person who typed it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed {kind}: {hint}")]
pub struct InvalidKey {
    /// Name of the kind of key, for example `ars`.
    pub kind: &'static str,
    /// What a well-formed key looks like.
    pub hint: &'static str,
}

macro_rules! text_key {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $hint:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            /// The key as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidKey;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let check: fn(&str) -> bool = $check;
                if check(text) { Ok(Self(text.into())) } else { Err(InvalidKey { kind: $kind, hint: $hint }) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

fn digits(text: &str, lengths: &[usize]) -> bool {
    lengths.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit())
}

fn visible(text: &str) -> bool {
    text.chars().all(|c| !c.is_control() && !c.is_whitespace())
}

text_key!(
    /// An organisation or system as `prefix:key`, for example `ags:07315000` (Organisationsschlüssel in DVDV).
    PartyId, "party", "expected prefix:key with a lower-case prefix, 6 to 255 characters", |text| {
        (6..=255).contains(&text.len())
            && visible(text)
            && text.split_once(':').is_some_and(|(prefix, key)| {
                !key.is_empty()
                    && prefix.starts_with(|c: char| c.is_ascii_lowercase())
                    && prefix.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            })
    }
);

text_key!(
    /// LeiKa key (FIM Leistungsschlüssel): `99` and twelve more digits.
    LeikaKey, "leika", "expected 14 digits beginning with 99", |text| digits(text, &[14]) && text.starts_with("99")
);

text_key!(
    /// Number of a service bundle in the OZG catalogue.
    OzgId, "ozg", "expected 5 digits", |text| digits(text, &[5])
);

text_key!(
    /// DVDV service specification URI; opaque, compared byte by byte.
    SpecificationUri, "uri", "expected a service specification URI of 9 to 1000 visible characters", |text| {
        (9..=1000).contains(&text.len()) && visible(text) && text.contains(':')
    }
);

text_key!(
    /// Amtlicher Regionalschlüssel on any level: 2 Land, 3 Regierungsbezirk, 5 Kreis, 9 association, 12 municipality.
    Ars, "ars", "expected 2, 3, 5, 9 or 12 digits; leading zeros count", |text| digits(text, &[2, 3, 5, 9, 12])
);

text_key!(
    /// Amtlicher Gemeindeschlüssel on any level: 2, 3, 5 or 8 digits.
    Ags, "ags", "expected 2, 3, 5 or 8 digits; leading zeros count", |text| digits(text, &[2, 3, 5, 8])
);

text_key!(
    /// Postleitzahl. Never proof of a place: many belong to several municipalities.
    Postcode, "plz", "expected 5 digits", |text| digits(text, &[5])
);

text_key!(
    /// Name of an account in the gateway's configuration.
    AccountName, "account", "expected 1 to 64 of a-z, 0-9, - and _", |text| {
        (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
    }
);

text_key!(
    /// The sender's reference for a case (Vorgang, Aktenzeichen).
    CaseId, "caseId", "expected 1 to 255 characters without control characters", |text| {
        (1..=255).contains(&text.len()) && !text.chars().any(char::is_control)
    }
);

text_key!(
    /// Messages with equal keys are handed over in order of acceptance.
    OrderingKey, "orderingKey", "expected 1 to 128 visible characters", |text| (1..=128).contains(&text.len()) && visible(text)
);

text_key!(
    /// Key that makes repeated intake harmless: 1 to 255 visible ASCII characters.
    IdempotencyKey, "Idempotency-Key", "expected 1 to 255 visible ASCII characters", |text| {
        (1..=255).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
    }
);

/// What a sender names a service by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceKey {
    /// By LeiKa key.
    Leika(LeikaKey),
    /// By OZG id.
    Ozg(OzgId),
    /// By DVDV service specification.
    Uri(SpecificationUri),
}

impl FromStr for ServiceKey {
    type Err = InvalidKey;

    /// Reads `leika:…`, `ozg:…` or `uri:…`; also the URN spelling of a LeiKa key.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(key) = text.strip_prefix("urn:de:fim:leika:leistung:") {
            return key.parse().map(Self::Leika);
        }
        match text.split_once(':') {
            Some(("leika", key)) => key.parse().map(Self::Leika),
            Some(("ozg", key)) => key.parse().map(Self::Ozg),
            Some(("uri", key)) => key.parse().map(Self::Uri),
            _ => Err(InvalidKey { kind: "service", hint: "expected leika:<key>, ozg:<id> or uri:<uri>" }),
        }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leika(key) => write!(f, "leika:{key}"),
            Self::Ozg(key) => write!(f, "ozg:{key}"),
            Self::Uri(key) => write!(f, "uri:{key}"),
        }
    }
}

/// What a sender names a place by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AreaKey {
    /// By regional key.
    Ars(Ars),
    /// By municipality key.
    Ags(Ags),
    /// By postcode; answers only when all its municipalities agree.
    Plz(Postcode),
}

impl FromStr for AreaKey {
    type Err = InvalidKey;

    /// Reads `ars:…`, `ags:…` or `plz:…`; also the URN spelling of an ARS.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(key) = text.strip_prefix("urn:de:bund:destatis:bevoelkerungsstatistik:schluessel:rs:") {
            return key.parse().map(Self::Ars);
        }
        match text.split_once(':') {
            Some(("ars", key)) => key.parse().map(Self::Ars),
            Some(("ags", key)) => key.parse().map(Self::Ags),
            Some(("plz", key)) => key.parse().map(Self::Plz),
            _ => Err(InvalidKey { kind: "area", hint: "expected ars:<key>, ags:<key> or plz:<postcode>" }),
        }
    }
}

impl fmt::Display for AreaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ars(key) => write!(f, "ars:{key}"),
            Self::Ags(key) => write!(f, "ags:{key}"),
            Self::Plz(key) => write!(f, "plz:{key}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_lost_a_zero_are_refused() {
        assert!("07315000".parse::<Ags>().is_ok());
        assert_eq!("7315000".parse::<Ags>().unwrap_err().kind, "ags");
        assert!("07315000000".parse::<Ars>().is_err());
        assert!("9910702303700".parse::<LeikaKey>().is_err());
        assert!("00107023037000".parse::<LeikaKey>().is_err());
    }

    #[test]
    fn parties_need_prefix_and_key() {
        assert!("psb:07315000_00".parse::<PartyId>().is_ok());
        for wrong in ["07315000", "ags:", ":07315000", "AGS:07315000", "ags:07 315", "a:b"] {
            assert!(wrong.parse::<PartyId>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn selectors_accept_both_spellings() {
        let urn = "urn:de:fim:leika:leistung:99107023037000".parse::<ServiceKey>();
        assert_eq!(urn, "leika:99107023037000".parse());
        assert_eq!("ars:07".parse::<AreaKey>().unwrap().to_string(), "ars:07");
        assert!("gemeinde:Mainz".parse::<AreaKey>().is_err());
    }
}
