//! Appends records to a file and acknowledges each on standard output; without `--sync` before it is durable. The laboratory
//! must find the careless one losing, or it could not be trusted with a careful one.

use std::io::Write as _;

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(path), sync) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: amtsbote-canary FILE [--sync]");
        std::process::exit(64);
    };
    let sync = sync.as_deref() == Some("--sync");
    let path = std::path::PathBuf::from(path);
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&path)?;
    if sync {
        file.sync_all()?;
        std::fs::File::open(path.parent().unwrap_or(std::path::Path::new(".")))?.sync_all()?;
    }
    let mut out = std::io::stdout().lock();
    for number in 0_u64.. {
        file.write_all(format!("{number:015}\n").as_bytes())?;
        if sync {
            file.sync_data()?;
        }
        writeln!(out, "{number}")?;
        out.flush()?;
    }
    Ok(())
}
