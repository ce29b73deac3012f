//! Uploads in parts that were begun and neither completed nor aborted. They show in no listing of objects, are kept and
//! billed until somebody aborts them, and the client cannot list them: this file asks for the list itself.

use std::sync::Arc;

use object_store::aws::{AmazonS3, AwsAuthorizer};
use object_store::client::{HttpClient, HttpConnector, HttpRequest, HttpRequestBody, ReqwestConnector};

use crate::client::reach;
use crate::{Environment, Limits, S3Error, S3Options};

/// Uploads of one prefix that are read; more is a wrong prefix.
const UPLOADS_MAX: usize = 100_000;

/// An upload that is open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenUpload {
    /// Key of the object that it would become.
    pub key: String,
    /// What the store calls it.
    pub id: String,
}

/// Lists the open uploads of a bucket.
#[derive(Clone, Debug)]
pub struct Uploads {
    bucket_url: String,
    region: String,
    store: Arc<AmazonS3>,
    http: HttpClient,
}

/// Why the list cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot list open uploads: {reason}")]
pub struct UploadsError {
    reason: String,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl UploadsError {
    fn new(reason: impl Into<String>) -> Self {
        UploadsError { reason: reason.into(), source: None }
    }

    fn because(reason: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        UploadsError { reason: reason.to_owned(), source: Some(source.into()) }
    }
}

impl Uploads {
    /// For the bucket that `store` is the client of, with the same options.
    ///
    /// **Errors**: what cannot be used.
    pub fn new(
        store: Arc<AmazonS3>,
        bucket: &str,
        (options, environment): (&S3Options, &Environment),
        limits: &Limits,
    ) -> Result<Uploads, S3Error> {
        let reached = reach(bucket, options, environment)?;
        let http = ReqwestConnector::default().connect(&reached.transport(limits));
        let http = http.map_err(|error| S3Error::new(bucket, weir_core::error::report(&error)))?;
        Ok(Uploads { bucket_url: reached.bucket_url, region: reached.region, store, http })
    }

    /// Those whose keys begin with `prefix`. Asks once for each page: the caller repeats.
    ///
    /// **Errors**: no answer, or one that is no list.
    pub async fn list(&self, prefix: &str) -> Result<Vec<OpenUpload>, UploadsError> {
        let mut found = Vec::new();
        let mut marker = None;
        loop {
            let page = Page::read(&self.ask(prefix, marker.as_ref()).await?)?;
            found.extend(page.uploads);
            if found.len() > UPLOADS_MAX {
                return Err(UploadsError::new(format!("there are more than {UPLOADS_MAX} below '{prefix}'")));
            }
            if page.next.is_none() || page.next == marker {
                return Ok(found);
            }
            marker = page.next;
        }
    }

    async fn ask(&self, prefix: &str, marker: Option<&OpenUpload>) -> Result<String, UploadsError> {
        let mut url = format!("{}?uploads=&prefix={}", self.bucket_url, escape(prefix));
        if let Some(OpenUpload { key, id }) = marker {
            url.push_str(&format!("&key-marker={}&upload-id-marker={}", escape(key), escape(id)));
        }
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.uri_mut() = url.parse().map_err(|error| UploadsError::because("the address is no URL", error))?;
        let credential = self.store.credentials().get_credential().await;
        let credential = credential.map_err(|error| UploadsError::because("there are no credentials", error))?;
        AwsAuthorizer::new(&credential, "s3", &self.region).authorize(&mut request, None);
        let answer = self.http.execute(request).await;
        let answer = answer.map_err(|error| UploadsError::because("no answer", error))?;
        let status = answer.status();
        let body = answer.into_body().bytes().await;
        let body = body.map_err(|error| UploadsError::because("the answer broke off", error))?;
        let text = String::from_utf8_lossy(&body).into_owned();
        match status.is_success() {
            true => Ok(text),
            false => Err(UploadsError::new(format!("the store answers {status}: {text}"))),
        }
    }
}

/// One page of the list.
#[derive(PartialEq, Eq, Debug)]
struct Page {
    uploads: Vec<OpenUpload>,
    /// Behind which the next page begins.
    next: Option<OpenUpload>,
}

impl Page {
    /// Reads the XML of an answer, as far as it matters here. An answer that was cut short is an error.
    fn read(text: &str) -> Result<Page, UploadsError> {
        let whole = text.trim_end().ends_with("</ListMultipartUploadsResult>");
        if !whole {
            return Err(UploadsError::new("the answer is not a whole list"));
        }
        let mut uploads = Vec::new();
        for upload in text.split("<Upload>").skip(1) {
            let upload = upload.split("</Upload>").next().unwrap_or_default();
            let (Some(key), Some(id)) = (element(upload, "Key"), element(upload, "UploadId")) else {
                return Err(UploadsError::new("an upload in the list has no key or no id"));
            };
            uploads.push(OpenUpload { key, id });
        }
        let is_truncated = element(text, "IsTruncated").as_deref() == Some("true");
        let next = element(text, "NextKeyMarker").zip(element(text, "NextUploadIdMarker"));
        let next = next.filter(|_| is_truncated).map(|(key, id)| OpenUpload { key, id });
        if is_truncated && next.is_none() {
            return Err(UploadsError::new("the list goes on and does not say where"));
        }
        Ok(Page { uploads, next })
    }
}

/// The text of the first element of this name.
fn element(text: &str, name: &str) -> Option<String> {
    let (_, after) = text.split_once(&format!("<{name}>"))?;
    let (inner, _) = after.split_once(&format!("</{name}>"))?;
    let named = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#34;", "\""), ("&apos;", "'"), ("&#39;", "'")];
    let plain = named.iter().fold(inner.to_owned(), |text, (escaped, sign)| text.replace(escaped, sign));
    Some(plain.replace("&amp;", "&"))
}

/// A text as part of a query.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => escaped.push(byte as char),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_read_and_torn_ones_refused() {
        let text = "<?xml version=\"1.0\"?><ListMultipartUploadsResult xmlns=\"x\"><Bucket>b</Bucket><KeyMarker></KeyMarker>\
            <NextKeyMarker>p/b</NextKeyMarker><NextUploadIdMarker>2</NextUploadIdMarker><IsTruncated>true</IsTruncated>\
            <Upload><Key>p/a&amp;lt;</Key><UploadId>1</UploadId></Upload>\
            <Upload><Key>p/b</Key><UploadId>2</UploadId></Upload></ListMultipartUploadsResult>\n";
        let upload = |key: &str, id: &str| OpenUpload { key: key.to_owned(), id: id.to_owned() };
        let expected =
            Page { uploads: vec![upload("p/a&lt;", "1"), upload("p/b", "2")], next: Some(upload("p/b", "2")) };
        assert_eq!(Page::read(text).expect("it is whole"), expected);
        for cut in [0, 50, text.len() / 2, text.len() - 5] {
            assert!(Page::read(&text[..cut]).is_err(), "{cut}");
        }
        let last = text.replace(">true<", ">false<");
        assert_eq!(Page::read(&last).expect("it is whole").next, None);
    }

    #[test]
    fn queries_are_escaped() {
        assert_eq!(escape("a/b c&~"), "a%2Fb%20c%26~");
    }
}
