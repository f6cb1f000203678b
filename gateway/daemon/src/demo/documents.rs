//! Application documents: an XML form and a PDF attachment, both small and valid.

use super::plan::Application;

/// The application as XML.
pub(super) fn xml(application: &Application, number: usize) -> Vec<u8> {
    let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <antrag xmlns=\"urn:amtsbote:beispiel:antrag:1\" leistung=\"{service}\" nummer=\"{number:05}\">\n\
         \x20 <bezeichnung>{title}</bezeichnung>\n\
         \x20 <ort ars=\"{ars}\">{place}</ort>\n\
         \x20 <antragsteller>\n\
         \x20   <name>Beispiel Nummer {number}</name>\n\
         \x20   <anschrift>Musterstraße {number}, {place}</anschrift>\n\
         \x20 </antragsteller>\n\
         \x20 <erklaerung>Alle Angaben sind erfunden.</erklaerung>\n\
         </antrag>\n",
        service = application.service,
        title = escape(&application.title),
        ars = application.ars,
        place = escape(&application.place),
    )
    .into_bytes()
}

/// One page of PDF with a line of text (ISO 32000-1, 7.5).
pub(super) fn pdf(application: &Application) -> Vec<u8> {
    // The standard fonts know Latin-1 only through an encoding; ASCII is enough for an example.
    let line: String = format!("Anlage zur Leistung {}", application.service)
        .chars()
        .filter(|c| c.is_ascii() && !matches!(c, '(' | ')' | '\\'))
        .collect();
    let content = format!("BT /F1 18 Tf 72 760 Td ({line}) Tj ET");
    let objects = [
        "<< /Type /Catalog /Pages 2 0 R >>".to_owned(),
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>".to_owned(),
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>"
            .to_owned(),
        format!("<< /Length {} >>\nstream\n{content}\nendstream", content.len()),
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>".to_owned(),
    ];
    let mut file = b"%PDF-1.4\n".to_vec();
    let mut table = "0000000000 65535 f \n".to_owned();
    for (number, object) in objects.iter().enumerate() {
        table.push_str(&format!("{:010} 00000 n \n", file.len()));
        file.extend_from_slice(format!("{} 0 obj\n{object}\nendobj\n", number + 1).as_bytes());
    }
    let count = objects.len() + 1;
    let start = file.len();
    let trailer = format!(
        "xref\n0 {count}\n{table}trailer\n<< /Size {count} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n"
    );
    file.extend_from_slice(trailer.as_bytes());
    file
}
