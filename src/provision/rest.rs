//! The dialogue over HTTPS: one connection, made anew where the service closed it between two requests.

use std::error::Error;
use std::io;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::Request as Message;
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, DATE, HOST, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper_util::rt::TokioIo;
use tokio::task::JoinHandle;

use super::{Answer, BODY_MAX, CLIENT, Options, Seen, Tell, exposed, named};
use crate::hub::broken::in_words;
use crate::hub::clock::date_of;
use crate::hub::dps::{Request, Trouble};
use crate::secret::Secret;

/// A line to the service.
pub(super) struct Line<'o> {
    options: &'o Options,
    token: Option<Secret>,
    open: Option<Open>,
}

struct Open {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl<'o> Line<'o> {
    pub(super) fn new(options: &'o Options, token: Option<Secret>) -> Self {
        Self { options, token, open: None }
    }

    pub(super) async fn ask(&mut self, request: &Request, tell: Tell<'_>) -> Result<Answer, Trouble> {
        let message = self.message(request)?;
        let trouble = |error: &(dyn Error + 'static)| self.options.unreachable(&why(error));
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.connect(tell).await?,
        };
        if open.sender.ready().await.is_err() {
            open = self.connect(tell).await?;
        }
        tell(Seen::Asked(named(request)));
        let response = open.sender.send_request(message).await.map_err(|error| trouble(&error))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, BODY_MAX).collect().await.map_err(|error| trouble(&*error))?;
        let date = head.headers.get(DATE).and_then(|value| date_of(value.to_str().ok()?));
        let said = head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        self.open = Some(open);
        Ok(Answer {
            status: head.status.as_u16(),
            retry_after: said.map(Duration::from_secs),
            date,
            body: body.to_bytes().to_vec(),
        })
    }

    async fn connect(&self, tell: Tell<'_>) -> Result<Open, Trouble> {
        let stream = self.options.dial(tell).await?;
        let made = handshake(TokioIo::new(stream)).await;
        let (sender, connection) = made.map_err(|error| self.options.unreachable(&why(&error)))?;
        // An end of the connection is told to whoever sends on it.
        let driver = tokio::spawn(async move { drop(connection.await) });
        Ok(Open { sender, driver })
    }

    fn message(&self, request: &Request) -> Result<Message<Full<Bytes>>, Trouble> {
        let asked = request.http(&self.options.registration);
        let mut message = Message::builder()
            .method(asked.method)
            .uri(asked.path)
            .header(HOST, &self.options.host)
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/json; charset=utf-8")
            .header(USER_AGENT, CLIENT);
        if let Some(token) = exposed(self.token.as_ref()) {
            let value = HeaderValue::from_str(token).map(|mut value| {
                value.set_sensitive(true);
                value
            });
            message =
                message.header(AUTHORIZATION, value.map_err(|error| self.options.unreachable(&error.to_string()))?);
        }
        let body = Full::new(Bytes::from(asked.body));
        message.body(body).map_err(|error| self.options.unreachable(&error.to_string()))
    }
}

/// What broke the line, where that is known: HTTP itself only says that it did.
fn why(error: &(dyn Error + 'static)) -> String {
    let mut source = Some(error);
    while let Some(error) = source {
        if let Some(broken) = error.downcast_ref::<io::Error>() {
            return in_words(broken);
        }
        source = error.source();
    }
    error.to_string()
}
