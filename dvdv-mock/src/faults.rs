//! Scripted misbehaviour, per function and by counter.

use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// One way to misbehave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Fault {
    /// Answers correctly, but late.
    Latency {
        /// Milliseconds.
        milliseconds: u64,
    },
    /// Answers with a status such as 503.
    Status {
        /// HTTP status.
        code: u16,
        /// Seconds for `Retry-After`.
        #[serde(default)]
        retry_after: Option<u64>,
    },
    /// Breaks the connection before the answer is complete.
    Reset,
    /// Sends half of the JSON.
    Truncated,
    /// Says 401, as if the token were void.
    Unauthorized,
    /// Sends null in required properties.
    NullRequired,
    /// Sends a value outside every enumeration.
    UnknownEnum,
    /// Sends a property nobody knows.
    UnknownProperty,
    /// Sends 200 without a body.
    EmptyBody,
    /// Leaves one result out of a batch.
    ShortBatch,
    /// Certificates are revoked, with a reason but no date.
    RevokedReasonOnly,
    /// Certificates are revoked at a date that cannot be parsed.
    RevokedBadDate,
}

/// When to misbehave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultRule {
    /// Function of the interface, for example `findservicedescription`; `token` for the token endpoint; absent: all.
    #[serde(default)]
    pub function: Option<String>,
    /// Requests to leave alone first.
    #[serde(default)]
    pub after: u32,
    /// Requests to spoil then; absent: all.
    #[serde(default)]
    pub times: Option<u32>,
    /// What happens.
    pub fault: Fault,
}

#[derive(Debug, Default)]
pub(crate) struct Script(Mutex<Vec<FaultRule>>);

impl Script {
    pub(crate) fn replace(&self, rules: Vec<FaultRule>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = rules;
    }

    /// The faults of one request to a function, in the order of the rules.
    pub(crate) fn next(&self, function: &str) -> Vec<Fault> {
        let mut rules = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut faults = Vec::new();
        for rule in rules.iter_mut().filter(|rule| rule.function.as_deref().is_none_or(|one| one == function))
        {
            if rule.after > 0 {
                rule.after -= 1;
                continue;
            }
            match &mut rule.times {
                Some(0) => {}
                Some(times) => {
                    *times -= 1;
                    faults.push(rule.fault);
                }
                None => faults.push(rule.fault),
            }
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_count_per_function() {
        let script = Script::default();
        let rules = r#"[{"function":"categories","after":1,"times":2,"fault":"reset"},
                        {"fault":{"latency":{"milliseconds":5}}}]"#;
        script.replace(serde_json::from_str(rules).unwrap());
        let late = Fault::Latency { milliseconds: 5 };
        let seen: Vec<_> = (0..4).map(|_| script.next("categories")).collect();
        assert_eq!(seen, [vec![late], vec![Fault::Reset, late], vec![Fault::Reset, late], vec![late]]);
        assert_eq!(script.next("version"), [late]);
    }
}
