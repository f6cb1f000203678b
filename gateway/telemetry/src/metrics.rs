//! Metrics for Prometheus, prefix `amtsbote_`. Labels are closed enumerations.

use std::time::Duration;

use amtsbote_core::Timestamp;
use amtsbote_core::delivery::FailureClass;
use amtsbote_core::message::IdScheme;
use amtsbote_core::operations::Overview;
use amtsbote_core::port::{IntakeOutcome, Observation, Observer, StoreStatus};
use amtsbote_core::route::ChannelKind;
use prometheus::core::Collector as _;
use prometheus::{
    Encoder as _, Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::health::Health;
use crate::history::Totals;

/// Buckets from half a millisecond to half a minute.
const SECONDS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];
/// Destinations with a label of their own.
const LABELS: usize = 50;
const BATCH: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 256.0, 1024.0];

/// All metrics of a gateway, in a registry of its own.
pub struct Metrics {
    registry: Registry,
    submissions: IntCounterVec,
    submission_seconds: Histogram,
    attempts: IntCounterVec,
    attempt_seconds: Histogram,
    dead: IntCounter,
    dead_letters: IntGauge,
    queue_messages: IntGaugeVec,
    queue_oldest: GaugeVec,
    mailbox_messages: IntGauge,
    held_destinations: IntGauge,
    open_breakers: IntGauge,
    seal_failures: IntCounter,
    deadlines: IntCounterVec,
    schedule_lag: Gauge,
    commit_seconds: Histogram,
    commit_batch: Histogram,
    journal_bytes: IntGauge,
    index_lag: IntGauge,
    search_lag: IntGauge,
    quarantined: IntGauge,
    ready: IntGauge,
    degraded: IntGauge,
    store_low: IntGauge,
    store_full: IntGauge,
    directory_down: IntGauge,
    certificate_expiry: GaugeVec,
    directory_lookups: IntCounterVec,
    directory_seconds: Histogram,
    health: std::sync::Arc<Health>,
}

impl Metrics {
    /// Registers everything. `health` learns from the same observations.
    ///
    /// # Errors
    /// When two metrics have the same name, which would be a bug.
    pub fn new(health: std::sync::Arc<Health>) -> prometheus::Result<Self> {
        let registry = Registry::new_custom(Some("amtsbote".to_owned()), None)?;
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            let metric = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let gauge = |name: &str, help: &str| {
            let metric = IntGauge::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let counter = |name: &str, help: &str| {
            let metric = IntCounter::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let schedule_lag =
            Gauge::new("schedule_lag_seconds", "How late the most overdue timer was handled last.")?;
        registry.register(Box::new(schedule_lag.clone()))?;
        let certificate_expiry = GaugeVec::new(
            Opts::new("certificate_expiry_seconds", "Seconds until a certificate of the gateway expires."),
            &["role"],
        )?;
        registry.register(Box::new(certificate_expiry.clone()))?;
        let queue_oldest = GaugeVec::new(
            Opts::new("queue_oldest_seconds", "Age of the oldest undelivered message, by destination."),
            &["destination"],
        )?;
        registry.register(Box::new(queue_oldest.clone()))?;
        let queue_messages = IntGaugeVec::new(
            Opts::new("queue_messages", "Messages that are not with their department yet, by destination."),
            &["destination"],
        )?;
        registry.register(Box::new(queue_messages.clone()))?;
        let build =
            GaugeVec::new(Opts::new("build_info", "Version of the gateway; always 1."), &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1.0);
        registry.register(Box::new(build))?;
        Ok(Self {
            submissions: counters(
                "submissions_total",
                "Submissions by channel of intake and outcome.",
                &["channel", "outcome"],
            )?,
            submission_seconds: histogram(
                "submission_seconds",
                "Time from a complete body to its durable answer.",
                &SECONDS,
            )?,
            attempts: counters(
                "attempts_total",
                "Attempts to hand over, by transport and outcome.",
                &["transport", "outcome"],
            )?,
            attempt_seconds: histogram("attempt_seconds", "Time of an attempt to hand over.", &SECONDS)?,
            dead_letters: gauge("dead_letters", "Messages that wait for an operator.")?,
            queue_messages,
            queue_oldest,
            mailbox_messages: gauge("mailbox_messages", "Messages in all mailboxes, leased ones included.")?,
            held_destinations: gauge("held_destinations", "Destinations that an operator holds.")?,
            open_breakers: gauge("open_breakers", "Destinations that are out of order.")?,
            dead: counter("dead_lettered_total", "Messages that were dead-lettered since the start.")?,
            deadlines: counters(
                "deadlines_total",
                "Deadlines that came near, or passed, before the message was with its department.",
                &["event"],
            )?,
            seal_failures: counter("seal_failures_total", "Documents that could not be signed at once.")?,
            schedule_lag,
            commit_seconds: histogram(
                "store_commit_seconds",
                "Time of a group commit, sync included.",
                &SECONDS,
            )?,
            commit_batch: histogram("store_commit_batch_size", "Frames in a group commit.", &BATCH)?,
            journal_bytes: gauge("journal_bytes", "Bytes of the journal.")?,
            index_lag: gauge(
                "index_lag_frames",
                "Committed changes that the index on disk does not hold yet.",
            )?,
            search_lag: gauge(
                "search_lag_bytes",
                "Bytes of the journal that operators' search does not know yet.",
            )?,
            quarantined: gauge("quarantined_records", "Damaged records found since the start.")?,
            ready: gauge(
                "ready",
                "Whether work may be sent here: 1 if the store commits, the scheduler moves and certificates are valid.",
            )?,
            degraded: gauge("degraded", "Whether something needs attention although the gateway is ready.")?,
            store_low: gauge("store_low", "Whether the store should be given more room.")?,
            store_full: gauge("store_full", "Whether the store takes nothing for want of room.")?,
            directory_down: gauge(
                "directory_down",
                "Whether the directory cannot be asked; what is known of it is used.",
            )?,
            certificate_expiry,
            directory_lookups: counters(
                "directory_lookups_total",
                "Questions to the directory that were not answered from the cache, by outcome.",
                &["outcome"],
            )?,
            directory_seconds: histogram(
                "directory_seconds",
                "Time of a question to the directory.",
                &SECONDS,
            )?,
            health,
            registry,
        })
    }

    /// A group was committed by the store.
    pub fn committed(&self, frames: usize, elapsed: Duration) {
        self.commit_seconds.observe(elapsed.as_secs_f64());
        self.commit_batch.observe(frames as f64);
    }

    /// What waits, counted a moment ago. Only the destinations with the most get a label of their own.
    pub fn waiting(&self, overview: &Overview, now: Timestamp) {
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let mut sorted: Vec<_> = overview.destinations.iter().collect();
        sorted.sort_by_key(|one| std::cmp::Reverse(one.messages));
        self.queue_messages.reset();
        self.queue_oldest.reset();
        for (place, one) in sorted.iter().enumerate() {
            let label = if place < LABELS { one.destination.to_string() } else { "other".to_owned() };
            self.queue_messages.with_label_values(&[&label]).add(number(one.messages));
            let age = one.oldest.map_or(0.0, |oldest| now.duration_since(oldest).as_secs_f64());
            let gauge = self.queue_oldest.with_label_values(&[&label]);
            gauge.set(gauge.get().max(age));
        }
        let mailboxes = sorted.iter().filter(|one| one.destination.channel == ChannelKind::Mailbox);
        self.mailbox_messages.set(number(mailboxes.map(|one| one.messages).sum()));
        let count = |test: fn(&&&amtsbote_core::operations::DestinationStatus) -> bool| {
            number(sorted.iter().filter(test).count() as u64)
        };
        self.held_destinations.set(count(|one| one.hold.is_some()));
        self.open_breakers.set(count(|one| one.breaker.is_some()));
        self.dead_letters.set(number(overview.dead));
    }

    /// What was counted since the start, for the [`crate::History`].
    pub fn totals(&self) -> Totals {
        let sum = |metrics: &IntCounterVec, label: &str, wanted: &[&str]| {
            let of = |one: &prometheus::proto::Metric| {
                let counts =
                    one.get_label().iter().any(|pair| pair.name() == label && wanted.contains(&pair.value()));
                if counts { one.get_counter().get_value() } else { 0.0 }
            };
            let families = metrics.collect();
            families.iter().flat_map(|family| family.get_metric()).map(of).sum::<f64>() as u64
        };
        let mut answered = Vec::new();
        for family in self.submission_seconds.collect() {
            for metric in family.get_metric() {
                let histogram = metric.get_histogram();
                let buckets = histogram.get_bucket().iter();
                answered.extend(buckets.map(|one| (one.upper_bound(), one.cumulative_count())));
                // What took longer than the last limit counts as just that.
                let last = answered.last().map_or(0.0, |(limit, _): &(f64, u64)| *limit);
                answered.push((last, histogram.get_sample_count()));
            }
        }
        Totals {
            accepted: sum(&self.submissions, "outcome", &["accepted"]),
            delivered: sum(&self.attempts, "outcome", &["delivered"]),
            failed: sum(&self.attempts, "outcome", &["transient", "permanent", "destination", "ours"]),
            answered,
        }
    }

    /// The directory was asked.
    pub fn directory_asked(&self, outcome: DirectoryOutcome, elapsed: Duration) {
        self.directory_lookups.with_label_values(&[outcome.as_str()]).inc();
        self.directory_seconds.observe(elapsed.as_secs_f64());
    }

    /// Renders everything in the text format of Prometheus.
    ///
    /// # Errors
    /// When a metric cannot be encoded, which would be a bug.
    pub fn render(&self, store: &StoreStatus, now: Timestamp) -> prometheus::Result<Vec<u8>> {
        for (role, expires) in self.health.certificates() {
            self.certificate_expiry.with_label_values(&[role]).set(expires.duration_since(now).as_secs_f64());
        }
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.journal_bytes.set(number(store.journal_bytes));
        self.index_lag.set(number(store.index_lag));
        self.search_lag.set(number(store.search_lag));
        self.quarantined.set(number(store.quarantined));
        let readiness = self.health.readiness(store, now);
        self.ready.set(i64::from(readiness.is_ready()));
        self.degraded.set(i64::from(readiness.status == "degraded"));
        self.store_low.set(i64::from(store.low.is_some()));
        self.store_full.set(i64::from(store.full));
        self.directory_down.set(i64::from(self.health.directory_is_down()));
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

/// How a question to the directory ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirectoryOutcome {
    /// A record.
    Found,
    /// No usable record.
    Missing,
    /// A record that was kept because nobody answered.
    Stale,
    /// Nobody answered.
    Unavailable,
}

impl DirectoryOutcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::Missing => "missing",
            Self::Stale => "stale",
            Self::Unavailable => "unavailable",
        }
    }
}

fn face(scheme: IdScheme) -> &'static str {
    match scheme {
        IdScheme::Client => "rest",
        IdScheme::Xta => "xta",
        IdScheme::Osci => "osci",
    }
}

fn intake(outcome: IntakeOutcome) -> &'static str {
    match outcome {
        IntakeOutcome::Accepted => "accepted",
        IntakeOutcome::Duplicate => "duplicate",
        IntakeOutcome::Conflict => "conflict",
        IntakeOutcome::Refused => "refused",
        IntakeOutcome::Failed => "failed",
    }
}

fn attempt(failure: Option<FailureClass>) -> &'static str {
    match failure {
        None => "delivered",
        Some(FailureClass::Transient) => "transient",
        Some(FailureClass::Permanent) => "permanent",
        Some(FailureClass::Destination) => "destination",
        Some(FailureClass::Ours) => "ours",
    }
}

impl Observer for Metrics {
    fn record(&self, observation: Observation<'_>) {
        match observation {
            Observation::Intake { scheme, outcome, elapsed } => {
                self.submissions.with_label_values(&[face(scheme), intake(outcome)]).inc();
                self.submission_seconds.observe(elapsed.as_secs_f64());
            }
            Observation::Attempt { channel, failure, elapsed, .. } => {
                self.attempts.with_label_values(&[channel.as_str(), attempt(failure)]).inc();
                self.attempt_seconds.observe(elapsed.as_secs_f64());
            }
            Observation::Dead { id, code } => {
                tracing::error!(message.id = %id, code, "A message was dead-lettered; it waits for an operator.");
                self.dead.inc();
            }
            Observation::Deadline { id, missed } => {
                let event = if missed { "missed" } else { "near" };
                tracing::error!(message.id = %id, event, "A deadline needs somebody's attention.");
                self.deadlines.with_label_values(&[event]).inc();
            }
            Observation::Breaker { destination, reason: Some(reason) } => {
                tracing::error!(%destination, code = reason.code, detail = reason.detail, "A destination is out of order; its messages wait.");
            }
            Observation::Breaker { destination, reason: None } => {
                tracing::info!(%destination, "A destination is in order again; its messages go on slowly.");
            }
            Observation::SealFailed { .. } => self.seal_failures.inc(),
            Observation::Scheduled { lag, at } => {
                self.schedule_lag.set(lag.as_secs_f64());
                self.health.scheduler_moved(at);
            }
        }
    }
}
