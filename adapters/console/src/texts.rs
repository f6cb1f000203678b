//! Everything the console says, in German and in English. A text that is missing in one of them does not compile.

/// A language of the console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Language {
    German,
    English,
}

impl Language {
    /// As written in cookies and addresses.
    pub(crate) fn of(code: &str) -> Option<Self> {
        match code {
            "de" => Some(Self::German),
            "en" => Some(Self::English),
            _ => None,
        }
    }

    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::German => "de",
            Self::English => "en",
        }
    }

    /// The first language of an Accept-Language header that is spoken here.
    pub(crate) fn preferred(header: &str) -> Option<Self> {
        header.split(',').find_map(|one| Self::of(one.trim().get(..2)?))
    }

    pub(crate) fn texts(self) -> &'static Texts {
        match self {
            Self::German => &GERMAN,
            Self::English => &ENGLISH,
        }
    }

    /// The one of two sentences that is in this language.
    pub(crate) fn pick<T>(self, german: T, english: T) -> T {
        match self {
            Self::German => german,
            Self::English => english,
        }
    }
}

macro_rules! texts {
    ($($name:ident: $german:literal, $english:literal;)*) => {
        /// The texts of one language.
        pub(crate) struct Texts {
            $(pub(crate) $name: &'static str,)*
        }

        static GERMAN: Texts = Texts { $($name: $german,)* };
        static ENGLISH: Texts = Texts { $($name: $english,)* };
    };
}

texts! {
    // Frame
    skip: "Zum Inhalt", "Skip to content";
    navigation: "Hauptnavigation", "Main navigation";
    overview: "Überblick", "Overview";
    messages: "Nachrichten", "Messages";
    destinations: "Ziele", "Destinations";
    holds: "Sperren", "Holds";
    dead_letters: "Unzustellbar", "Dead letters";
    bulk: "Sammelaufträge", "Bulk operations";
    routes: "Zuständigkeit", "Responsibility";
    setup: "Konten und Zertifikate", "Accounts and certificates";
    audit: "Protokoll", "Audit trail";
    signed_in_as: "Angemeldet als", "Signed in as";
    sign_out: "Abmelden", "Sign out";
    other_language: "English", "Deutsch";
    pause: "Aktualisierung anhalten", "Pause updates";
    resume: "Aktualisierung fortsetzen", "Resume updates";
    table_scrolls: "Tabelle, waagerecht verschiebbar", "Table, scrolls sideways";
    older: "Ältere", "Older";
    newest: "Zurück zu den neuesten", "Back to the newest";
    nothing: "Nichts.", "Nothing.";
    all: "alle", "all";
    error: "Das ging nicht", "That did not work";
    back: "Zurück", "Back";
    reason: "Begründung", "Reason";
    reason_hint: "Für andere Betreuer; steht im Protokoll.", "For other operators; written into the audit trail.";
    reason_needed: "Eine Begründung ist nötig, höchstens 500 Bytes lang.", "A reason is needed, of at most 500 bytes.";
    role_missing: "Ihre Rolle erlaubt das nicht.", "Your role does not allow that.";
    form_unreadable: "Das Formular ist nicht lesbar.", "The form cannot be read.";
    form_stale: "Das Formular ist veraltet. Bitte die Seite neu laden und noch einmal absenden.", "The form is out of date. Please load the page again and send it once more.";
    foreign_origin: "Das Formular kam nicht von dieser Konsole.", "The form did not come from this console.";
    filter_unreadable: "Der Filter ist nicht lesbar: Feld", "The filter cannot be read: field";
    no_such_page: "Das gibt es nicht.", "There is no such thing.";

    // Signing in
    sign_in: "Anmelden", "Sign in";
    sign_in_how: "Melden Sie sich mit dem Client-Zertifikat eines Kontos mit der Rolle viewer, operator oder administrator an, oder erzeugen Sie auf dem Rechner des Gateways einen Einmal-Link:", "Sign in with the client certificate of an account that has the role viewer, operator or administrator, or make a one-time link on the machine of the gateway:";
    sign_in_expired: "Die Sitzung ist abgelaufen.", "The session has expired.";
    sign_in_certificate: "Das Client-Zertifikat wurde nicht angenommen:", "The client certificate was not accepted:";
    link_foreign: "Der Link gehört nicht zu diesem Gateway, oder es wurde seitdem neu gestartet.", "The link is not of this gateway, or it was restarted since.";
    link_expired: "Der Link ist abgelaufen; er gilt fünf Minuten.", "The link has expired; it is good for five minutes.";
    link_used: "Der Link wurde schon benutzt; er gilt einmal.", "The link was used before; it is good once.";
    link_good: "Der Link gilt. Die Sitzung dauert höchstens 30 Minuten.", "The link is good. The session lasts 30 minutes at most.";

    // Overview
    condition: "Zustand", "Condition";
    ready: "bereit", "ready";
    degraded: "eingeschränkt", "degraded";
    not_ready: "nicht bereit", "not ready";
    waiting: "Wartende Nachrichten", "Messages waiting";
    oldest: "Älteste", "Oldest";
    held_destinations: "Angehaltene Ziele", "Held destinations";
    out_of_order_count: "Gestörte Ziele", "Destinations out of order";
    counted_at: "Gezählt", "Counted";
    not_counted: "Noch nicht gezählt; das geschieht kurz nach dem Start.", "Not counted yet; that happens shortly after the start.";
    trouble: "Ziele mit Störungen", "Destinations in trouble";
    trouble_none: "Kein Ziel ist gestört, gesperrt oder im Rückstand.", "No destination is out of order, held or behind.";
    deadlines: "Gefährdete Fristen", "Deadlines at risk";
    deadlines_none: "Keine Frist ist gefährdet.", "No deadline is at risk.";
    certificates_soon: "Bald ablaufende Zertifikate", "Certificates about to expire";
    certificates_none: "Kein Zertifikat läuft in den nächsten 30 Tagen ab.", "No certificate expires within the next 30 days.";
    traffic: "Verkehr der letzten Stunde", "Traffic of the last hour";
    chart_throughput: "Nachrichten je Sekunde", "Messages per second";
    chart_accepted: "angenommen", "accepted";
    chart_delivered: "übergeben", "handed over";
    chart_failed: "fehlgeschlagen", "failed";
    chart_latency: "Antwortzeit der Annahme in Millisekunden", "Time to answer submissions in milliseconds";
    chart_half: "die Hälfte", "half of them";
    chart_most: "99 von 100", "99 of 100";
    chart_age: "Alter der ältesten wartenden Nachricht in Sekunden", "Age of the oldest waiting message in seconds";
    chart_oldest: "älteste", "oldest";
    chart_numbers: "Zahlen", "Numbers";
    chart_none: "Noch keine Messwerte; alle zehn Sekunden kommt einer dazu.", "No measurements yet; one is taken every ten seconds.";
    search_behind: "Die Suche kennt die letzten Änderungen noch nicht; es fehlen", "The search does not know the last changes yet; it lacks";
    of_journal: "Byte des Journals.", "bytes of the journal.";

    // Messages
    find: "Suchen", "Find";
    filter: "Filter", "Filter";
    any_id: "Irgendeine Id", "Any id";
    account: "Konto", "Account";
    case_id: "Vorgang", "Case";
    party: "Beteiligte Stelle", "Party";
    destination: "Ziel", "Destination";
    service: "Leistung", "Service";
    state: "Zustand", "State";
    code: "Fehlercode", "Error code";
    text: "Text im Fehler", "Text in the error";
    since: "Seit", "Since";
    accepted_since: "Angenommen ab", "Accepted from";
    accepted_before: "Angenommen vor", "Accepted before";
    time_hint: "Zum Beispiel 2026-11-23T06:00:00+01:00", "Such as 2026-11-23T06:00:00+01:00";
    accepted_at: "Angenommen", "Accepted";
    attempts: "Versuche", "Attempts";
    last_failure: "Letzter Fehler", "Last failure";
    id: "Id", "Id";
    looked_back_to: "Durchsucht bis zurück zum", "Looked back to";

    // One message
    message: "Nachricht", "Message";
    what_now: "Was ist los, und wer muss etwas tun?", "What is the matter, and who has to act?";
    facts: "Angaben", "Facts";
    sender: "Absender", "Sender";
    external_ids: "Andere Ids", "Other ids";
    deadline: "Frist", "Deadline";
    timeline: "Laufzettel", "Process card";
    when: "Wann", "When";
    what: "Was", "What";
    details: "Einzelheiten", "Details";
    attempts_made: "Zustellversuche", "Attempts to deliver";
    outcome: "Ergebnis", "Outcome";
    route: "Zuständigkeit", "Route";
    seal: "Signatur", "Signature";
    seal_none: "Noch nicht signiert.", "Not signed yet.";
    algorithm: "Verfahren", "Algorithm";
    certificate: "Zertifikat", "Certificate";
    organization: "Behörde", "Authority";
    channel: "Kanal", "Channel";
    decided_at: "Entschieden", "Decided";
    trace: "Wie entschieden wurde", "How it was decided";
    contents: "Inhalt", "Contents";
    contents_hint: "Betreff, Dateinamen und Metadaten sind personenbezogen. Wer sie ansieht, steht im Protokoll.", "Subject, file names and metadata are personal data. Whoever looks at them is named in the audit trail.";
    contents_show: "Inhalt anzeigen", "Show contents";
    contents_missing: "Dafür ist die Rolle operator oder administrator nötig.", "That takes the role operator or administrator.";
    metadata: "Metadaten", "Metadata";
    parts: "Teile", "Parts";
    name: "Name", "Name";
    media_type: "Art", "Type";
    size: "Größe", "Size";
    download: "Herunterladen", "Download";
    actions: "Eingreifen", "Act";
    redrive: "Erneut zustellen", "Deliver again";
    reroute: "Neu ermitteln und zustellen", "Find the way anew and deliver";
    cancel: "Aufgeben", "Give up";
    hold: "Anhalten", "Hold";
    release: "Freigeben", "Release";

    // Destinations
    queue: "Wartend", "Waiting";
    why: "Warum", "Why";
    until: "Bis", "Until";
    until_hint: "Leer lassen: bis jemand freigibt. Sonst zum Beispiel 2026-11-23T06:00:00+01:00", "Leave empty: until somebody releases it. Otherwise such as 2026-11-23T06:00:00+01:00";
    by: "Von", "By";
    next_probe: "Nächster Versuch", "Next try";
    policy: "Geltende Regeln", "Policy in force";
    concurrency: "Gleichzeitige Versuche", "Attempts at the same time";
    rate: "Versuche je Sekunde", "Attempts per second";
    release_rate: "Nach einer Sperre oder Störung je Sekunde", "Per second after a hold or an outage";
    weight: "Anteil gegenüber anderen Zielen", "Share against other destinations";
    max_attempts: "Fehlversuche, bis eine Nachricht unzustellbar ist", "Failures after which a message is a dead letter";
    failures_to_open: "Fehler in Folge, bis das Ziel als gestört gilt", "Failures in a row after which it counts as out of order";
    unlimited: "unbegrenzt", "unlimited";
    latest_messages: "Neueste Nachrichten", "Latest messages";
    scope: "Was", "What";
    key: "Welches", "Which";

    // Dead letters and bulk operations
    died_at: "Seit", "Since";
    died_before: "Unzustellbar vor", "Died before";
    with_all: "Mit allen, auf die der Filter passt:", "With all that the filter matches:";
    preview: "Vorschau", "Preview";
    preview_count: "Nachrichten, auf die der Filter jetzt passt:", "Messages the filter matches now:";
    everything: "Ja, wirklich alle", "Yes, really all of them";
    begin: "Ausführen", "Carry out";
    action: "Aktion", "Action";
    per_second: "Nachrichten je Sekunde", "Messages per second";
    progress: "Fortschritt", "Progress";
    failed: "Fehlgeschlagen", "Failed";
    stop: "Abbrechen", "Stop";
    running: "läuft", "running";
    finished: "fertig", "done";
    stopped: "abgebrochen", "stopped";
    total: "Insgesamt", "Total";
    processed: "Bearbeitet", "Done";

    // Responsibility, setup, audit
    ask: "Ermitteln", "Find out";
    service_hint: "ozg:10092, leika:99107023037000 oder uri:…", "ozg:10092, leika:99107023037000 or uri:…";
    area: "Gebiet", "Area";
    area_hint: "ars:073150000000, ags:07315000 oder plz:55116", "ars:073150000000, ags:07315000 or plz:55116";
    question_unreadable: "Leistung oder Gebiet ist nicht lesbar.", "Service or area cannot be read.";
    accounts: "Konten", "Accounts";
    roles: "Rollen", "Roles";
    parties: "Stellen", "Parties";
    serves: "Nimmt an für", "Serves";
    credentials: "Zugangsmittel", "Credentials";
    certificates: "Zertifikate", "Certificates";
    purpose: "Wofür", "For";
    expires: "Läuft ab", "Expires";
    days_left: "Tage", "Days left";
    target: "Woran", "Target";
    before: "Vorher", "Before";
    after: "Nachher", "After";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_language_that_is_spoken_counts() {
        assert_eq!(Language::preferred("fr-FR, en-GB;q=0.8, de;q=0.5"), Some(Language::English));
        assert_eq!(Language::preferred("de-AT"), Some(Language::German));
        assert_eq!(Language::preferred("fr, ä"), None);
    }
}
