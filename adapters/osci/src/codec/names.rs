//! Names of namespaces, and the declarations messages repeat.

pub(crate) const DS: &str = "http://www.w3.org/2000/09/xmldsig#";
pub(crate) const OSCI: &str = "http://www.osci.de/2002/04/osci";
pub(crate) const OSCI_2017: &str = "http://xoev.de/transport/osci12/7";
pub(crate) const OSCI_128: &str = "http://xoev.de/transport/osci12/8";
pub(crate) const SOAP: &str = "http://schemas.xmlsoap.org/soap/envelope/";
pub(crate) const XENC: &str = "http://www.w3.org/2001/04/xmlenc#";
pub(crate) const XENC11: &str = "http://www.w3.org/2009/xmlenc11#";
pub(crate) const XSI: &str = "http://www.w3.org/2001/XMLSchema-instance";
pub(crate) const META: &str = "http://www.osci.eu/ws/2014/10/transport";

pub(crate) const C14N: &str = "http://www.w3.org/TR/2001/REC-xml-c14n-20010315";
pub(crate) const BASE64: &str = "http://www.w3.org/2000/09/xmldsig#base64";
pub(crate) const X509_DATA: &str = "http://www.w3.org/2000/09/xmldsig#X509Data";

pub(crate) const ACTOR_NEXT: &str = "http://schemas.xmlsoap.org/soap/actor/next";
pub(crate) const ACTOR_NONE: &str = "http://www.w3.org/2001/12/soap-envelope/actor/none";

/// Declarations on the envelope, exactly these, in canonical order. Every digest of a container made by somebody else covers them.
pub(crate) const NS5: &str = concat!(
    " xmlns:ds=\"http://www.w3.org/2000/09/xmldsig#\"",
    " xmlns:osci=\"http://www.osci.de/2002/04/osci\"",
    " xmlns:soap=\"http://schemas.xmlsoap.org/soap/envelope/\"",
    " xmlns:xenc=\"http://www.w3.org/2001/04/xmlenc#\"",
    " xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"",
);

/// The same with that of the supplement of 2017.
pub(crate) const NS6: &str = concat!(
    " xmlns:ds=\"http://www.w3.org/2000/09/xmldsig#\"",
    " xmlns:osci=\"http://www.osci.de/2002/04/osci\"",
    " xmlns:osci2017=\"http://xoev.de/transport/osci12/7\"",
    " xmlns:soap=\"http://schemas.xmlsoap.org/soap/envelope/\"",
    " xmlns:xenc=\"http://www.w3.org/2001/04/xmlenc#\"",
    " xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"",
);
