//! Reads the few fields of a certificate (X.509, in DER) that an application needs.
//!
//! The certificates were verified before. A whole parser would accept less and depend on many crates.

/// The type of a common name, 2.5.4.3 (RFC 5280 appendix A.1).
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

const INTEGER: u8 = 0x02;
const OBJECT_IDENTIFIER: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// The optional version of a certificate.
const VERSION: u8 = 0xa0;

/// Returns the serial number of a certificate in upper-case hexadecimal digits without leading zeros.
pub(crate) fn serial_number(certificate: &[u8]) -> Option<String> {
    let mut fields = fields(certificate)?;
    let digits: String = content(&mut fields, INTEGER)?.iter().map(|byte| format!("{byte:02X}")).collect();
    Some(match digits.trim_start_matches('0') {
        "" => "0".to_owned(),
        digits => digits.to_owned(),
    })
}

/// Returns the common name of a certificate's subject, or the last one if there are several.
pub(crate) fn common_name(certificate: &[u8]) -> Option<String> {
    let mut fields = fields(certificate)?;
    content(&mut fields, INTEGER)?;
    let [_algorithm, _issuer, _validity] = [(); 3].map(|()| content(&mut fields, SEQUENCE));
    let mut subject = content(&mut fields, SEQUENCE)?;
    let mut name = None;
    while !subject.is_empty() {
        let mut attributes = content(&mut subject, SET)?;
        while !attributes.is_empty() {
            let mut attribute = content(&mut attributes, SEQUENCE)?;
            if content(&mut attribute, OBJECT_IDENTIFIER)? == COMMON_NAME {
                let (kind, value) = element(&mut attribute)?;
                name = Some(text(kind, value)?);
            }
        }
    }
    name
}

/// Returns the fields of a certificate from the serial number on.
fn fields(certificate: &[u8]) -> Option<&[u8]> {
    let mut rest = certificate;
    let mut certificate = content(&mut rest, SEQUENCE)?;
    let mut fields = content(&mut certificate, SEQUENCE)?;
    if fields.first() == Some(&VERSION) {
        element(&mut fields)?;
    }
    Some(fields)
}

/// Decodes a text by its kind (X.680 §8.6).
fn text(kind: u8, value: &[u8]) -> Option<String> {
    match kind {
        // UTF8String, and the kinds that are parts of ASCII.
        0x0c | 0x12 | 0x13 | 0x16 | 0x1a => String::from_utf8(value.to_vec()).ok(),
        // TeletexString, which is used for Latin-1.
        0x14 => Some(value.iter().map(|byte| char::from(*byte)).collect()),
        // UniversalString
        0x1c => value.chunks(4).map(|unit| char::from_u32(u32::from_be_bytes(unit.try_into().ok()?))).collect(),
        // BMPString
        0x1e => {
            let units = value.chunks(2).map(|unit| unit.try_into().map(u16::from_be_bytes).ok());
            String::from_utf16(&units.collect::<Option<Vec<_>>>()?).ok()
        }
        _ => None,
    }
}

/// Takes an element of this kind from the front, and returns its content.
fn content<'a>(bytes: &mut &'a [u8], kind: u8) -> Option<&'a [u8]> {
    element(bytes).filter(|(found, _)| *found == kind).map(|(_, content)| content)
}

/// Takes an element from the front, and returns its kind and its content (X.690 §8.1).
fn element<'a>(bytes: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let [kind, length, rest @ ..] = *bytes else { return None };
    let (length, rest) = match length {
        0..=0x7f => (usize::from(*length), rest),
        // A certificate is shorter than 16 MiB. 0x80, a length that is not known yet, is no DER.
        0x81..=0x83 => {
            let (length, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            (length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    *bytes = rest;
    Some((*kind, content))
}

#[cfg(test)]
mod tests {
    use rcgen::{
        CertificateParams, DistinguishedName, DnType, DnValue, KeyPair, SerialNumber,
        string::{BmpString, Ia5String, PrintableString, TeletexString, UniversalString},
    };

    use super::*;

    fn certificate(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::new(["another.name".to_owned()]).expect("a name");
        params.distinguished_name = DistinguishedName::new();
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("a certificate").der().to_vec()
    }

    #[test]
    fn common_name_is_read_in_every_kind_of_text() {
        for (value, name) in [
            (DnValue::Utf8String("CP ü 🔌".into()), "CP ü 🔌"),
            (DnValue::PrintableString(PrintableString::try_from("SN-0815").expect("text")), "SN-0815"),
            (DnValue::Ia5String(Ia5String::try_from("cp@acme").expect("text")), "cp@acme"),
            (DnValue::TeletexString(TeletexString::try_from("SN-0815").expect("text")), "SN-0815"),
            (DnValue::BmpString(BmpString::try_from("CP ü").expect("text")), "CP ü"),
            (DnValue::UniversalString(UniversalString::try_from("CP ü 🔌").expect("text")), "CP ü 🔌"),
        ] {
            let der = certificate(|params| {
                params.distinguished_name.push(DnType::OrganizationName, "ACME");
                params.distinguished_name.push(DnType::CommonName, value);
                params.distinguished_name.push(DnType::CountryName, "DE");
            });
            assert_eq!(common_name(&der).as_deref(), Some(name));
        }
        assert_eq!(common_name(&certificate(|params| params.distinguished_name.push(DnType::CountryName, "DE"))), None);
        assert_eq!(common_name(&certificate(|_| {})), None);
    }

    #[test]
    fn serial_number_has_no_leading_zeros() {
        for (serial, digits) in [
            (&[0x0a, 0xbc][..], "ABC"),
            (&[0xff, 0x00], "FF00"),
            (&[1], "1"),
            (&[0x7f; 20], "7F7F7F7F7F7F7F7F7F7F7F7F7F7F7F7F7F7F7F7F"),
        ] {
            let der = certificate(|params| params.serial_number = Some(SerialNumber::from(serial.to_vec())));
            assert_eq!(serial_number(&der).as_deref(), Some(digits));
        }
    }

    #[test]
    fn malformed_certificates_have_no_fields() {
        let der = certificate(|params| params.distinguished_name.push(DnType::CommonName, "SN-0815"));
        for cut in 0..der.len() {
            assert_eq!((common_name(&der[..cut]), serial_number(&der[..cut])), (None, None), "{cut}");
        }
        for at in 0..der.len() {
            let mut changed = der.clone();
            changed[at] ^= 0xff;
            // A changed length may lead anywhere within the certificate, but never beyond it.
            let _ = (common_name(&changed), serial_number(&changed));
        }
        for noise in
            [&[0x30; 100][..], &[0xff; 100], &[0x30, 0x80, 0x30], &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff], b"PEM"]
        {
            assert_eq!((common_name(noise), serial_number(noise)), (None, None));
        }
    }
}
