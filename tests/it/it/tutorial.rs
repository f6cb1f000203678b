//! The commands of the tutorial do what it says.

use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use amtsbote_it::endpoint::lab_with_endpoint;
use amtsbote_it::{Lab, METADATA, Options, binary, eventually};
use axum::http::StatusCode;

/// Blocks of commands behind a heading.
fn blocks(heading: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/tutorial.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (_, text) = text.split_once(heading).unwrap();
    text.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap().to_owned()).collect()
}

fn shell(lab: &Lab, commands: &str, id: &str) -> String {
    // The reader's own values instead of the examples.
    let own = |line: &&str| !line.starts_with("ID=") && !line.contains("OPERATOR_URL=");
    let commands: Vec<&str> = commands.lines().filter(own).collect();
    let program = binary("amtsbote");
    let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let output: Output = std::process::Command::new("bash")
        .args(["-euc", &commands.join("\n")])
        .current_dir(lab.path(""))
        .env("PATH", path)
        .env("ID", id)
        .env("AMTSBOTE_OPERATOR_URL", format!("https://{}", lab.gateway().operator))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{commands:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_failing_destination_to_a_delivered_message_with_the_command_line() {
    let repaired = Arc::new(AtomicBool::new(false));
    let works = Arc::clone(&repaired);
    let answer = move || {
        let works = works.load(Ordering::Relaxed);
        std::future::ready(if works { StatusCode::NO_CONTENT } else { StatusCode::UNPROCESSABLE_ENTITY })
    };
    let router = axum::Router::new().fallback(answer);
    let mut lab = lab_with_endpoint(router, Options::default(), "").await;
    lab.start_gateway().await;
    let id = lab.client("portal").submit("k1", METADATA, b"<antrag/>").await;
    let becomes = async |state: &str| {
        let look = async || {
            let shown = lab.client("portal").get(&format!("/v1/submissions/{id}")).await.json;
            (shown["state"] == state).then_some(())
        };
        eventually(&lab, look).await;
    };
    becomes("dead").await;

    let [setup, matter, trace, redrive] = blocks("## With the command line").try_into().unwrap();
    let seen = shell(&lab, &(setup.clone() + &matter), &id);
    assert!(seen.contains("ready") && seen.contains(&id) && seen.contains("webhook-rejected"), "{seen}");
    let seen = shell(&lab, &(setup.clone() + &trace), &id);
    assert!(seen.contains("status 422") && seen.contains("RESOLVED"), "{seen}");
    repaired.store(true, Ordering::Relaxed);
    let (first, last) = redrive.split_once("amtsbote messages").unwrap();
    let seen = shell(&lab, &(setup.clone() + first), &id);
    assert!(seen.contains("1 messages match") && seen.contains("now "), "{seen}");
    becomes("delivered").await;
    let seen = shell(&lab, &format!("{setup}amtsbote messages{last}"), &id);
    assert!(
        seen.contains(&id) && seen.contains("redrive") && seen.contains("the endpoint was repaired"),
        "{seen}"
    );
}
