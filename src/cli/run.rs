//! `brownbridge run`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::check::{could_not_run, print_error, print_findings};
use super::running::default_config;
use super::service;
use crate::admin::Recorder;
use crate::app::inherited::Inherited;
use crate::app::settings::LogLevel;
use crate::app::{self, Reloader, Running, private, settings, text_file};

/// `EX_CONFIG` of sysexits.h: systemd need not try again.
const BAD_CONFIGURATION: u8 = 78;
/// `EX_IOERR` of sysexits.h: the spool cannot keep its promise any more; a restart opens it afresh.
const SPOOL_FAILED: u8 = 74;

/// Runs the bridge until it is told to stop (SIGTERM or Ctrl-C).
#[derive(clap::Args)]
#[command(after_help = "Example:\n  export HUB_CONNECTION='HostName=..;DeviceId=..;SharedAccessKey=..'\n  \
    brownbridge run --config bridge.toml\n\nExit code: 0 stopped, 2 could not run, 74 the spool's disk failed, \
    78 bad configuration.\nAn unreachable hub never stops it: messages wait in the spool.")]
pub(super) struct Args {
    /// The configuration; `bridge.toml.example` shows all of it [default: bridge.toml if it lies here, else
    /// /etc/brownbridge/bridge.toml]
    #[arg(long, value_name = "FILE", hide_default_value = true, default_value = default_config())]
    config: PathBuf,
    /// How log lines are written to stderr. The level is taken from the environment variable BROWNBRIDGE_LOG: error,
    /// warn, info (where nothing is said) or debug.
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = LogFormat::Text)]
    log: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum LogFormat {
    /// One readable line an event.
    Text,
    /// One JSON object an event.
    Json,
}

pub(super) fn run(args: Args) -> ExitCode {
    private::keep();
    let log_level = start_log(args.log, "info");
    let loaded = match settings::load(&args.config, &|name| std::env::var(name).ok()) {
        Ok(loaded) => loaded,
        Err(error) => {
            print_error(&format!("error: {}\n", text_file::cannot_read(&args.config, &error)));
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    print_findings(&loaded.diagnostics, &loaded.sources);
    let Some(mut settings) = loaded.settings else { return ExitCode::from(BAD_CONFIGURATION) };
    // Before there are threads: it takes variables out of the environment.
    settings.inherited = Inherited::from_environment();
    settings.log_level = Some(log_level);
    let recorder = match Recorder::install() {
        Ok(recorder) => recorder,
        Err(error) => return could_not_run(&format!("the metrics cannot be set up: {error}")),
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return could_not_run(&format!("the runtime cannot start: {error}")),
    };
    let code = runtime.block_on(async {
        // Before anybody can be told that the program is up: a signal sent then is heard.
        let stop = told_to_stop();
        // From here on SIGHUP does not end the program; one that comes before everything is there is answered then.
        let hangup = signal(SignalKind::hangup()).ok();
        match app::start(settings, recorder).await {
            Ok(running) => serve(running, stop, hangup).await,
            Err(error) => could_not_run(&error.to_string()),
        }
    });
    // A thread that still waits for a broken disk must not keep the process; nothing it holds was acknowledged.
    runtime.shutdown_background();
    code
}

async fn serve(mut running: Running, stop: impl Future<Output = &'static str>, hangup: Option<Signal>) -> ExitCode {
    service::ready();
    let reloader = running.reloader();
    let told = running.pulse().map(|pulse| tokio::spawn(service::keep_told(pulse)));
    let failure = running.spool_failure();
    tokio::select! {
        reason = failure => {
            tracing::error!("the spool failed and cannot keep its promise, the program ends: {reason}");
            return ExitCode::from(SPOOL_FAILED);
        }
        signal = stop => tracing::info!("{signal}: stopping"),
        () = told_to_reload(hangup, reloader) => {}
    }
    service::stopping(running.longest_stop());
    if let Some(told) = told {
        // It holds on to the spools, which are to be closed.
        told.abort();
        let _ = told.await;
    }
    match running.stop().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("the spool was not closed cleanly: {error}");
            ExitCode::from(SPOOL_FAILED)
        }
    }
}

/// Listens from the call on; the future ends with the name of the first signal that asks for the end.
pub(super) fn told_to_stop() -> impl Future<Output = &'static str> {
    let (terminate, interrupt) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    async move {
        let (Ok(mut terminate), Ok(mut interrupt)) = (terminate, interrupt) else {
            let _ = tokio::signal::ctrl_c().await;
            return "SIGINT";
        };
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    }
}

/// Answers SIGHUP; never returns.
async fn told_to_reload(hangup: Option<Signal>, reloader: Reloader) {
    if let Some(mut hangup) = hangup {
        while hangup.recv().await.is_some() {
            tracing::info!("SIGHUP: rules, users, access files and certificates are looked at");
            service::reloading();
            reloader.reload().await;
            service::ready();
        }
    }
    std::future::pending().await
}

/// Sends log lines to stderr, with times in RFC 3339. What is returned changes the level.
pub(super) fn start_log(format: LogFormat, default_level: &'static str) -> LogLevel {
    use tracing_subscriber::EnvFilter;
    let filter = move || EnvFilter::try_from_env("BROWNBRIDGE_LOG").unwrap_or_else(|_| EnvFilter::new(default_level));
    let wanted = move |level: Option<&str>| level.map_or_else(filter, EnvFilter::new);
    let color = super::text::colored(&std::io::stderr());
    let log = tracing_subscriber::fmt().with_env_filter(filter()).with_writer(std::io::stderr).with_ansi(color);
    match format {
        LogFormat::Text => {
            let log = log.with_target(false).with_filter_reloading();
            let handle = log.reload_handle();
            let _ = log.try_init();
            Arc::new(move |level| handle.reload(wanted(level)).map_err(|error| error.to_string()))
        }
        LogFormat::Json => {
            let log = log.json().flatten_event(true).with_target(false).with_filter_reloading();
            let handle = log.reload_handle();
            let _ = log.try_init();
            Arc::new(move |level| handle.reload(wanted(level)).map_err(|error| error.to_string()))
        }
    }
}
