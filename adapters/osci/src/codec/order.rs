//! What orders and their answers say, kind by kind (OSCI-Transport 1.2, "Auftragsarten", with the supplement of 2017).

use amtsbote_soap::document::ElementRef;
use jiff::Timestamp;

use super::block::{attribute, block, block_2017, content};
use super::card::{Feedback, ProcessCard, read_id, read_time, write_feedback, write_id, write_time};
use super::code::{Code, Language};
use super::envelope::{Direction, Envelope, Operation};
use super::names::{OSCI, OSCI_2017};
use super::problem::Problem;

/// Ids in one selection.
const IDS_MAX: usize = 1_000;
/// Bytes of a subject.
const SUBJECT_MAX: usize = 4_000;
/// Bytes of an address.
const ADDRESS_MAX: usize = 2_000;

/// Which delivery is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchRule {
    /// The next one nobody has received.
    Next,
    /// This one.
    Id(String),
    /// The next one nobody has received, of those that came then or later.
    Since(Timestamp),
}

/// Which deliveries' cards are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CardSelection {
    /// All.
    All,
    /// Those of these deliveries.
    Ids(Vec<String>),
    /// Those of deliveries that came then or later.
    Created(Timestamp),
    /// Those that changed then or later.
    Modified(Timestamp),
}

/// What the client has to do with a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// Sent it.
    Originator,
    /// Gets it.
    Addressee,
}

/// Which cards are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CardRule {
    /// Of which deliveries.
    pub selection: CardSelection,
    /// Only those where the client has this part.
    pub part: Option<Part>,
    /// Only those nobody has received.
    pub no_reception: bool,
    /// At most so many.
    pub limit: Option<usize>,
}

/// Where a chunk belongs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChunkInformation {
    /// From 1.
    pub number: Option<u64>,
    /// KiB of each but the last.
    pub size: Option<u64>,
    /// How many there are.
    pub total: Option<u64>,
    /// KiB of all together, rounded somehow.
    pub total_size: Option<u64>,
    /// Numbers that are there already.
    pub received: Vec<u64>,
}

impl ChunkInformation {
    fn read(parent: ElementRef<'_>) -> Result<Self, Problem> {
        let element = parent.child(OSCI_2017, "ChunkInformation");
        let element = element.ok_or(Problem::Structure("no ChunkInformation"))?;
        let number = |name| {
            let text = element.attribute(name).map(str::trim);
            text.map(|text| {
                text.parse::<u64>().map_err(|_| Problem::Structure("a ChunkInformation without numbers"))
            })
            .transpose()
        };
        let received = element.attribute("ReceivedChunks").unwrap_or_default();
        let received = received.split_ascii_whitespace().filter(|text| *text != "-1").take(1 << 20);
        let received = received
            .map(|text| text.parse().map_err(|_| Problem::Structure("ReceivedChunks are no numbers")));
        Ok(Self {
            number: number("ChunkNumber")?,
            size: number("ChunkSize")?,
            total: number("TotalChunkNumbers")?,
            total_size: number("TotalMessageSize")?,
            received: received.collect::<Result<_, _>>()?,
        })
    }

    /// `tell_received`: whether the list is written, `-1` if it is empty.
    fn write(&self, tell_received: bool) -> String {
        let given = |name: &str, value: Option<u64>| {
            value.map(|value| format!(" {name}=\"{value}\"")).unwrap_or_default()
        };
        let list: Vec<String> = self.received.iter().map(u64::to_string).collect();
        let list = if list.is_empty() { "-1".to_owned() } else { list.join(" ") };
        let list = if tell_received { format!(" ReceivedChunks=\"{list}\"") } else { String::new() };
        format!(
            "<osci2017:ChunkInformation{}{}{list}{}{}></osci2017:ChunkInformation>",
            given("ChunkNumber", self.number),
            given("ChunkSize", self.size),
            given("TotalChunkNumbers", self.total),
            given("TotalMessageSize", self.total_size),
        )
    }
}

/// What a client wants, or an intermediary of a recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// To open a dialog.
    InitDialog,
    /// To end it.
    ExitDialog,
    /// An id.
    GetMessageId,
    /// To put a delivery into the addressee's mailbox.
    StoreDelivery {
        /// Its id.
        id: Option<String>,
        /// One line for people.
        subject: Option<String>,
    },
    /// A delivery.
    FetchDelivery(FetchRule),
    /// Cards.
    FetchProcessCard(CardRule),
    /// To have a delivery pushed.
    ForwardDelivery(Push),
    /// To have a delivery pushed and answered.
    MediateDelivery(Push),
    /// To bring a chunk; without one, to know which are there.
    PartialStoreDelivery {
        /// Id of the whole delivery.
        id: String,
        /// One line for people.
        subject: Option<String>,
        /// Which chunk.
        chunk: Option<ChunkInformation>,
    },
    /// A chunk of a delivery.
    PartialFetchDelivery(FetchRule, ChunkInformation),
    /// The recipient to take a delivery.
    AcceptDelivery(Box<ProcessCard>),
    /// The recipient to take a delivery and answer.
    ProcessDelivery {
        /// Id for the answer.
        reply_id: Option<String>,
        /// Of the delivery.
        card: Option<Box<ProcessCard>>,
    },
}

/// What is to be pushed where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Push {
    /// Address of the recipient.
    pub receiver: String,
    /// Id of the delivery.
    pub id: Option<String>,
    /// One line for people.
    pub subject: Option<String>,
}

/// Ids of chunks have this behind that of the delivery.
const PARTIAL: &str = "_Partial";

fn optional_id(element: ElementRef<'_>) -> Result<Option<String>, Problem> {
    element.child(OSCI, "MessageId").map(read_id).transpose()
}

fn subject(element: ElementRef<'_>) -> Result<Option<String>, Problem> {
    let subject = element.child(OSCI, "Subject").map(|one| one.text().trim().to_owned());
    match subject {
        Some(text) if text.len() > SUBJECT_MAX => Err(Problem::Structure("the Subject is too long")),
        subject => Ok(subject.filter(|text| !text.is_empty())),
    }
}

fn push(element: ElementRef<'_>) -> Result<Push, Problem> {
    let receiver = element.child(OSCI, "ContentReceiver").and_then(|one| one.attribute("URI"));
    let receiver = receiver.filter(|uri| uri.len() <= ADDRESS_MAX);
    let receiver = receiver.ok_or(Problem::Structure("no ContentReceiver"))?.to_owned();
    Ok(Push { receiver, id: optional_id(element)?, subject: subject(element)? })
}

fn fetch_rule(element: ElementRef<'_>) -> Result<FetchRule, Problem> {
    let Some(rule) = element.child(OSCI, "SelectionRule") else { return Ok(FetchRule::Next) };
    if let Some(id) = rule.child(OSCI, "MessageId") {
        return Ok(FetchRule::Id(read_id(id)?));
    }
    let since = rule.child(OSCI, "ReceptionOfDelivery");
    let since = since.ok_or(Problem::Structure("an unknown SelectionRule"))?;
    Ok(FetchRule::Since(read_time(&since.text())?))
}

fn card_rule(element: ElementRef<'_>) -> Result<CardRule, Problem> {
    let limit = element.child(OSCI, "Quantity").and_then(|one| one.attribute("Limit"));
    let limit =
        limit.map(|text| text.trim().parse().map_err(|_| Problem::Structure("a Limit that is no number")));
    let (mut part, mut no_reception) = (None, false);
    let selection = match element.child(OSCI, "SelectionRule").map(|rule| (rule, rule.children().next())) {
        None => CardSelection::All,
        Some((rule, Some(first))) if first.is(OSCI, "MessageId") => {
            let ids = rule.children().filter(|one| one.is(OSCI, "MessageId")).take(IDS_MAX + 1);
            let ids: Vec<String> = ids.map(read_id).collect::<Result<_, _>>()?;
            if ids.len() > IDS_MAX {
                return Err(Problem::Structure("too many ids"));
            }
            CardSelection::Ids(ids)
        }
        Some((_, Some(date))) => {
            part = match date.attribute("Role") {
                None => None,
                Some("Originator") => Some(Part::Originator),
                Some("Addressee") => Some(Part::Addressee),
                Some(_) => return Err(Problem::Structure("an unknown Role")),
            };
            no_reception = matches!(date.attribute("NoReception").map(str::trim), Some("true" | "1"));
            let at = read_time(&date.text());
            match date.local() {
                "ReceptionOfDelivery" => CardSelection::Created(at?),
                "RecentModification" => CardSelection::Modified(at?),
                _ => return Err(Problem::Structure("an unknown SelectionRule")),
            }
        }
        Some((_, None)) => return Err(Problem::Structure("an empty SelectionRule")),
    };
    Ok(CardRule { selection, part, no_reception, limit: limit.transpose()? })
}

impl Request {
    /// Reads the request of a message.
    ///
    /// # Errors
    /// [`Problem::Structure`], or [`Problem::NotAnOrder`] if it is none.
    pub fn read(envelope: &Envelope) -> Result<Self, Problem> {
        let kind = envelope.kind();
        if kind.direction != Direction::Request {
            return Err(Problem::NotAnOrder("it is a response"));
        }
        let element = envelope.element()?;
        Ok(match kind.operation {
            Operation::InitDialog => Self::InitDialog,
            Operation::ExitDialog => Self::ExitDialog,
            Operation::GetMessageId => Self::GetMessageId,
            Operation::StoreDelivery => {
                Self::StoreDelivery { id: optional_id(element)?, subject: subject(element)? }
            }
            Operation::FetchDelivery => Self::FetchDelivery(fetch_rule(element)?),
            Operation::FetchProcessCard => Self::FetchProcessCard(card_rule(element)?),
            Operation::ForwardDelivery => Self::ForwardDelivery(push(element)?),
            Operation::MediateDelivery => Self::MediateDelivery(push(element)?),
            Operation::PartialStoreDelivery => {
                let id = optional_id(element)?.ok_or(Problem::Structure("a chunk without MessageId"))?;
                let id = id.strip_suffix(PARTIAL).map(str::to_owned).unwrap_or(id);
                let info_only = element.child(OSCI_2017, "InfoOnly").is_some();
                let chunk = if info_only { None } else { Some(ChunkInformation::read(element)?) };
                Self::PartialStoreDelivery { id, subject: subject(element)?, chunk }
            }
            Operation::PartialFetchDelivery => {
                Self::PartialFetchDelivery(fetch_rule(element)?, ChunkInformation::read(element)?)
            }
            Operation::AcceptDelivery => {
                let bundle = element.child(OSCI, "ProcessCardBundle");
                let card = ProcessCard::read(bundle.ok_or(Problem::Structure("no ProcessCardBundle"))?)?;
                if card.reception.is_some() {
                    return Err(Problem::Structure("a delivery that was received before it was pushed"));
                }
                Self::AcceptDelivery(Box::new(card))
            }
            Operation::ProcessDelivery => {
                let card = element.child(OSCI, "ProcessCardBundle").map(ProcessCard::read).transpose()?;
                let reply_id = element.child(OSCI, "MessageIdResponse").map(read_id).transpose()?;
                Self::ProcessDelivery { reply_id, card: card.map(Box::new) }
            }
        })
    }

    /// About what it is.
    pub fn operation(&self) -> Operation {
        match self {
            Self::InitDialog => Operation::InitDialog,
            Self::ExitDialog => Operation::ExitDialog,
            Self::GetMessageId => Operation::GetMessageId,
            Self::StoreDelivery { .. } => Operation::StoreDelivery,
            Self::FetchDelivery(_) => Operation::FetchDelivery,
            Self::FetchProcessCard(_) => Operation::FetchProcessCard,
            Self::ForwardDelivery(_) => Operation::ForwardDelivery,
            Self::MediateDelivery(_) => Operation::MediateDelivery,
            Self::PartialStoreDelivery { .. } => Operation::PartialStoreDelivery,
            Self::PartialFetchDelivery(..) => Operation::PartialFetchDelivery,
            Self::AcceptDelivery(_) => Operation::AcceptDelivery,
            Self::ProcessDelivery { .. } => Operation::ProcessDelivery,
        }
    }

    /// The header block it has, and what it puts into the body.
    pub(crate) fn write(&self) -> (Option<String>, String) {
        let id_and_subject = |id: Option<&str>, subject: Option<&str>| {
            let id = id.map(|id| write_id("MessageId", id)).unwrap_or_default();
            let subject = subject.map(|text| format!("<osci:Subject>{}</osci:Subject>", content(text)));
            id + &subject.unwrap_or_default()
        };
        let pushed = |push: &Push| {
            let receiver = attribute(&push.receiver);
            format!("<osci:ContentReceiver URI=\"{receiver}\"></osci:ContentReceiver>")
                + &id_and_subject(push.id.as_deref(), push.subject.as_deref())
        };
        match self {
            Self::InitDialog => (None, "<osci:initDialog></osci:initDialog>".to_owned()),
            Self::ExitDialog => (None, "<osci:exitDialog></osci:exitDialog>".to_owned()),
            Self::GetMessageId => (None, "<osci:getMessageId></osci:getMessageId>".to_owned()),
            Self::StoreDelivery { id, subject } => (
                Some(block("storeDelivery", &id_and_subject(id.as_deref(), subject.as_deref()))),
                String::new(),
            ),
            Self::FetchDelivery(rule) => {
                (Some(block("fetchDelivery", &write_fetch_rule(rule))), String::new())
            }
            Self::FetchProcessCard(rule) => {
                (None, format!("<osci:fetchProcessCard>{}</osci:fetchProcessCard>", write_card_rule(rule)))
            }
            Self::ForwardDelivery(push) => (Some(block("forwardDelivery", &pushed(push))), String::new()),
            Self::MediateDelivery(push) => (Some(block("mediateDelivery", &pushed(push))), String::new()),
            Self::PartialStoreDelivery { id, subject, chunk } => {
                let chunk = chunk.as_ref().map(|chunk| chunk.write(false));
                let chunk = chunk.unwrap_or_else(|| "<osci2017:InfoOnly></osci2017:InfoOnly>".to_owned());
                let id = format!("{id}{PARTIAL}");
                let inner = id_and_subject(Some(&id), subject.as_deref()) + &chunk;
                (Some(block_2017("partialStoreDelivery", &inner)), String::new())
            }
            Self::PartialFetchDelivery(rule, chunk) => {
                let inner = write_fetch_rule(rule) + &chunk.write(true);
                (Some(block_2017("partialFetchDelivery", &inner)), String::new())
            }
            Self::AcceptDelivery(card) => {
                (Some(block("acceptDelivery", &card.write("ProcessCardBundle", true, false))), String::new())
            }
            Self::ProcessDelivery { reply_id, card } => {
                let id = reply_id.as_deref().map(|id| write_id("MessageIdResponse", id));
                let card = card.as_ref().map(|card| card.write("ProcessCardBundle", true, false));
                let inner = id.unwrap_or_default() + &card.unwrap_or_default();
                (Some(block("processDelivery", &inner)), String::new())
            }
        }
    }
}

pub(crate) fn write_fetch_rule(rule: &FetchRule) -> String {
    match rule {
        FetchRule::Next => String::new(),
        FetchRule::Id(id) => {
            format!("<osci:SelectionRule>{}</osci:SelectionRule>", write_id("MessageId", id))
        }
        FetchRule::Since(at) => format!(
            "<osci:SelectionRule><osci:ReceptionOfDelivery>{}</osci:ReceptionOfDelivery></osci:SelectionRule>",
            write_time(*at)
        ),
    }
}

fn write_card_rule(rule: &CardRule) -> String {
    let date = |name: &str, at: Timestamp| {
        let no_reception = if rule.no_reception { " NoReception=\"true\"" } else { "" };
        let part = match rule.part {
            None => "",
            Some(Part::Originator) => " Role=\"Originator\"",
            Some(Part::Addressee) => " Role=\"Addressee\"",
        };
        format!("<osci:{name}{no_reception}{part}>{}</osci:{name}>", write_time(at))
    };
    let selection = match &rule.selection {
        CardSelection::All => String::new(),
        CardSelection::Ids(ids) => ids.iter().map(|id| write_id("MessageId", id)).collect(),
        CardSelection::Created(at) => date("ReceptionOfDelivery", *at),
        CardSelection::Modified(at) => date("RecentModification", *at),
    };
    let selection = match selection.is_empty() {
        true => selection,
        false => format!("<osci:SelectionRule>{selection}</osci:SelectionRule>"),
    };
    let quantity = rule.limit.map(|limit| format!("<osci:Quantity Limit=\"{limit}\"></osci:Quantity>"));
    selection + &quantity.unwrap_or_default()
}

/// What a supplier found out, kind by kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A dialog is open.
    InitDialog,
    /// It is over.
    ExitDialog,
    /// An id.
    GetMessageId(Option<String>),
    /// A delivery is in a mailbox.
    StoreDelivery(Option<Box<ProcessCard>>),
    /// A delivery, in the body and the parts; what was asked for.
    FetchDelivery(FetchRule, Option<Box<ProcessCard>>),
    /// Cards; what was asked for.
    FetchProcessCard(CardRule, Vec<ProcessCard>),
    /// A delivery was pushed.
    ForwardDelivery(Option<Box<ProcessCard>>),
    /// A delivery was pushed and answered: cards of request and answer.
    MediateDelivery(Option<Box<ProcessCard>>, Option<Box<ProcessCard>>),
    /// A chunk is there.
    PartialStoreDelivery {
        /// Feedback on the whole.
        inside: Option<Feedback>,
        /// Of the whole.
        card: Option<Box<ProcessCard>>,
        /// Which chunks are there.
        chunk: ChunkInformation,
    },
    /// A chunk, as a part.
    PartialFetchDelivery {
        /// What was asked for.
        rule: FetchRule,
        /// Which chunk.
        chunk: ChunkInformation,
        /// Id of the delivery.
        id: String,
    },
    /// The recipient took a delivery.
    AcceptDelivery,
    /// The recipient took a delivery and answers in the body.
    ProcessDelivery {
        /// Id of the answer.
        id: Option<String>,
        /// One line for people.
        subject: Option<String>,
    },
}

/// An answer with the feedback on its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The main result first.
    pub feedback: Feedback,
    /// What was found out.
    pub answer: Answer,
}

fn one_card(element: ElementRef<'_>, name: &str) -> Result<Option<Box<ProcessCard>>, Problem> {
    Ok(element.child(OSCI, name).map(ProcessCard::read).transpose()?.map(Box::new))
}

impl Response {
    /// Reads the response of a message.
    ///
    /// # Errors
    /// [`Problem::Structure`], or [`Problem::NotAnOrder`] if it is none.
    pub fn read(envelope: &Envelope) -> Result<Self, Problem> {
        let kind = envelope.kind();
        if kind.direction != Direction::Response {
            return Err(Problem::NotAnOrder("it is a request"));
        }
        let element = envelope.element()?;
        let feedback = Feedback::read(element)?;
        let echo = |name| element.child(OSCI, name).ok_or(Problem::Structure("the request is not repeated"));
        let answer = match kind.operation {
            Operation::InitDialog => Answer::InitDialog,
            Operation::ExitDialog => Answer::ExitDialog,
            Operation::GetMessageId => Answer::GetMessageId(optional_id(element)?),
            Operation::StoreDelivery => Answer::StoreDelivery(one_card(element, "ProcessCardBundle")?),
            Operation::FetchDelivery => Answer::FetchDelivery(
                fetch_rule(echo("fetchDelivery")?)?,
                one_card(element, "ProcessCardBundle")?,
            ),
            Operation::FetchProcessCard => {
                let cards = ProcessCard::read_all(element, "ProcessCardBundle")?;
                Answer::FetchProcessCard(card_rule(echo("fetchProcessCard")?)?, cards)
            }
            Operation::ForwardDelivery => Answer::ForwardDelivery(one_card(element, "ProcessCardBundle")?),
            Operation::MediateDelivery => Answer::MediateDelivery(
                one_card(element, "RequestProcessCardBundle")?,
                one_card(element, "ReplyProcessCardBundle")?,
            ),
            Operation::PartialStoreDelivery => {
                let has_inside = element.child(OSCI_2017, "InsideFeedback").is_some();
                let inside = has_inside.then(|| Feedback::read_named(element, "InsideFeedback", OSCI_2017));
                Answer::PartialStoreDelivery {
                    inside: inside.transpose()?,
                    card: one_card(element, "ProcessCardBundle")?,
                    chunk: ChunkInformation::read(element)?,
                }
            }
            Operation::PartialFetchDelivery => Answer::PartialFetchDelivery {
                rule: fetch_rule(echo("fetchDelivery")?)?,
                chunk: ChunkInformation::read(element)?,
                id: optional_id(element)?.ok_or(Problem::Structure("a chunk without MessageId"))?,
            },
            Operation::AcceptDelivery => Answer::AcceptDelivery,
            Operation::ProcessDelivery => {
                Answer::ProcessDelivery { id: optional_id(element)?, subject: subject(element)? }
            }
        };
        Ok(Self { feedback, answer })
    }
}

impl Answer {
    /// The answer that finds nothing out, to an order that failed.
    pub fn nothing(request: &Request) -> Self {
        match request {
            Request::InitDialog => Self::InitDialog,
            Request::ExitDialog => Self::ExitDialog,
            Request::GetMessageId => Self::GetMessageId(None),
            Request::StoreDelivery { .. } => Self::StoreDelivery(None),
            Request::FetchDelivery(rule) => Self::FetchDelivery(rule.clone(), None),
            Request::FetchProcessCard(rule) => Self::FetchProcessCard(rule.clone(), Vec::new()),
            Request::ForwardDelivery(_) => Self::ForwardDelivery(None),
            Request::MediateDelivery(_) => Self::MediateDelivery(None, None),
            Request::PartialStoreDelivery { .. } => {
                Self::PartialStoreDelivery { inside: None, card: None, chunk: ChunkInformation::default() }
            }
            // What a chunk of nothing would be is not said; nothing found is answered by the other message.
            Request::PartialFetchDelivery(rule, _) => Self::FetchDelivery(rule.clone(), None),
            Request::AcceptDelivery(_) => Self::AcceptDelivery,
            Request::ProcessDelivery { reply_id, .. } => {
                Self::ProcessDelivery { id: reply_id.clone(), subject: None }
            }
        }
    }

    /// About what it is.
    pub fn operation(&self) -> Operation {
        match self {
            Self::InitDialog => Operation::InitDialog,
            Self::ExitDialog => Operation::ExitDialog,
            Self::GetMessageId(_) => Operation::GetMessageId,
            Self::StoreDelivery(_) => Operation::StoreDelivery,
            Self::FetchDelivery(..) => Operation::FetchDelivery,
            Self::FetchProcessCard(..) => Operation::FetchProcessCard,
            Self::ForwardDelivery(_) => Operation::ForwardDelivery,
            Self::MediateDelivery(..) => Operation::MediateDelivery,
            Self::PartialStoreDelivery { .. } => Operation::PartialStoreDelivery,
            Self::PartialFetchDelivery { .. } => Operation::PartialFetchDelivery,
            Self::AcceptDelivery => Operation::AcceptDelivery,
            Self::ProcessDelivery { .. } => Operation::ProcessDelivery,
        }
    }

    /// The header block it has, and what it puts into the body.
    pub(crate) fn write(&self, codes: &[Code], language: Language) -> (Option<String>, String) {
        let feedback = write_feedback("osci:Feedback", codes, language);
        let name = self.operation().response().element();
        let in_body = |inner: String| (None, format!("<osci:{name}>{feedback}{inner}</osci:{name}>"));
        let in_header = |inner: &str| (Some(block(&name, &format!("{feedback}{inner}"))), String::new());
        let bundle = |card: &Option<Box<ProcessCard>>, name: &str, forwarding: bool, reception: bool| {
            card.as_ref().map(|card| card.write(name, forwarding, reception)).unwrap_or_default()
        };
        match self {
            Self::InitDialog | Self::ExitDialog => in_body(String::new()),
            Self::GetMessageId(id) => {
                in_body(id.as_deref().map(|id| write_id("MessageId", id)).unwrap_or_default())
            }
            Self::FetchProcessCard(rule, cards) => {
                let cards: String =
                    cards.iter().map(|card| card.write("ProcessCardBundle", true, true)).collect();
                in_body(format!(
                    "<osci:fetchProcessCard>{}</osci:fetchProcessCard>{cards}",
                    write_card_rule(rule)
                ))
            }
            Self::StoreDelivery(card) => in_header(&bundle(card, "ProcessCardBundle", false, false)),
            Self::FetchDelivery(rule, card) => {
                let (rule, card) = (write_fetch_rule(rule), bundle(card, "ProcessCardBundle", true, false));
                in_header(&format!("<osci:fetchDelivery>{rule}</osci:fetchDelivery>{card}"))
            }
            Self::ForwardDelivery(card) => in_header(&bundle(card, "ProcessCardBundle", true, true)),
            Self::MediateDelivery(request, reply) => in_header(
                &(bundle(request, "RequestProcessCardBundle", true, true)
                    + &bundle(reply, "ReplyProcessCardBundle", true, true)),
            ),
            Self::PartialStoreDelivery { inside, card, chunk } => {
                let inside = inside.as_ref().map(|inside| {
                    let codes: Vec<Code> = inside.0.iter().filter_map(|entry| entry.code()).collect();
                    write_feedback("osci2017:InsideFeedback", &codes, language)
                });
                let card = bundle(card, "ProcessCardBundle", false, false);
                let inner = format!("{}{feedback}{card}{}", inside.unwrap_or_default(), chunk.write(true));
                (Some(block_2017(&name, &inner)), String::new())
            }
            Self::PartialFetchDelivery { rule, chunk, id } => {
                let (rule, id) = (write_fetch_rule(rule), write_id("MessageId", id));
                let chunk = chunk.write(false);
                let inner = format!("{feedback}<osci:fetchDelivery>{rule}</osci:fetchDelivery>{chunk}{id}");
                (Some(block_2017(&name, &inner)), String::new())
            }
            Self::AcceptDelivery => in_header(""),
            Self::ProcessDelivery { id, subject } => {
                let id = id.as_deref().map(|id| write_id("MessageId", id)).unwrap_or_default();
                let subject = subject.as_deref();
                let subject = subject.map(|text| format!("<osci:Subject>{}</osci:Subject>", content(text)));
                in_header(&(id + &subject.unwrap_or_default()))
            }
        }
    }
}
