//! Hot folders.

use std::collections::BTreeMap;
use std::time::Duration;

use amtsbote_folder::{Acknowledgement, Folder};

use super::reader::{Findings, Section};

/// A folder, and how often it is looked whether departments have taken what lies there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FolderConfig {
    /// The folder.
    pub folder: Folder,
    /// Time between two looks.
    pub look: Duration,
}

/// Folders by name.
pub(super) fn folders(root: &mut Section<'_>, findings: &mut Findings) -> BTreeMap<String, FolderConfig> {
    let named = root.named(findings, "folders");
    named.into_iter().filter_map(|(name, section)| Some((name, folder(section, findings)?))).collect()
}

fn folder(mut section: Section<'_>, findings: &mut Findings) -> Option<FolderConfig> {
    let path = section.path(findings, "path");
    let acknowledgement = match section.text(findings, "acknowledge").as_deref() {
        None | Some("removal") => Acknowledgement::Removal,
        Some("file") => Acknowledgement::File,
        Some("none") => Acknowledgement::None,
        Some(_) => {
            let remedy = "write \"removal\", \"file\" or \"none\"";
            section.issue(findings, "acknowledge", "is unknown", remedy);
            Acknowledgement::None
        }
    };
    let attempt = section.duration(findings, "attempt", Duration::from_secs(60));
    let look = section.duration(findings, "look", Duration::from_secs(10));
    section.close(findings);
    Some(FolderConfig { folder: Folder { path: path?, acknowledgement, attempt }, look })
}
