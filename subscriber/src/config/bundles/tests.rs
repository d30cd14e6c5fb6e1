use clap::Parser;

use super::*;

#[derive(Parser)]
struct Program {
    #[command(flatten)]
    bundles: BundleArguments,
}

fn check(arguments: &[&str]) -> Result<BundlesConfig, String> {
    let mut faults = ConfigFaults::default();
    let config = Program::try_parse_from([&["demon-runtime"], arguments].concat()).unwrap().bundles.check(&mut faults);
    if faults.is_empty() { Ok(config.unwrap()) } else { Err(faults.to_string()) }
}

/// What each bundle follows and where, as short text.
fn bundles(arguments: &[&str]) -> Vec<String> {
    let text = |bundle: &BundleConfig| {
        let follow = match &bundle.follow {
            Follow::Channel(channel) => format!("channel {channel}"),
            Follow::Tag(tag) => format!("tag {tag}"),
        };
        format!("{} {follow} {}", bundle.bundle, bundle.cache.display())
    };
    check(arguments).unwrap().bundles.iter().map(text).collect()
}

#[test]
fn one_bundle_takes_the_options_that_are_not_in_an_entry() {
    assert_eq!(bundles(&["--cache", "/c"]), ["contracts channel latest /c"]);
    assert_eq!(bundles(&["--bundle", "policies", "--channel", "beta", "--cache", "/c"]), ["policies channel beta /c"]);
    assert_eq!(bundles(&["--cache", "/c", "--tag", "v1"]), ["contracts tag v1 /c"]);
    assert_eq!(bundles(&["--cache", "/c", "--tag", "contracts-latest"]), ["contracts channel latest /c"]);
    assert!(check(&[]).unwrap().state_dir.ends_with(".demon/agent"));
}

#[test]
fn an_entry_says_what_is_its_own() {
    let given =
        ["--bundle", "contracts=/a", "--bundle", "policies=/b,channel=production", "--bundle", "wasm=/w,tag=v3"];
    assert_eq!(bundles(&given), ["contracts channel latest /a", "policies channel production /b", "wasm tag v3 /w"]);
    assert_eq!(check(&given).unwrap().state_dir, Path::new("/agent"));
    let in_one = ["--bundle", " contracts ; policies = /b , channel=production ;", "--cache", "/x/a", "--tag", "v1"];
    assert_eq!(bundles(&in_one), ["contracts tag v1 /x/a", "policies channel production /b"]);
    assert_eq!(
        bundles(&["--bundle", "contracts=/a,channel=beta", "--bundle", "p=/b,tag=contracts-latest", "--tag", "v1"]),
        ["contracts channel beta /a", "p channel latest /b"],
        "an entry wins over the option, and the alias pins nothing"
    );
}

#[test]
fn bundles_that_are_in_each_others_way_are_refused() {
    for (arguments, fault) in [
        (vec!["--bundle", "a", "--bundle", "b", "--cache", "/c"], "bundles `a` and `b` share the cache `/c`"),
        (vec!["--bundle", "a=/c", "--bundle", "b=/c/./x/.."], "bundles `a` and `b` share the cache `/c`"),
        (
            vec!["--bundle", "a=/c", "--bundle", "b=/c/x"],
            "the cache `/c/x` of bundle `b` lies inside that of bundle `a`",
        ),
        (
            vec!["--bundle", "a=/c/x", "--bundle", "b=/c"],
            "the cache `/c/x` of bundle `a` lies inside that of bundle `b`",
        ),
        (vec!["--bundle", "a=/c;a=/d"], "bundle `a` is named twice"),
        (vec!["--bundle", "a=/c;b=/d", "--state-dir", "/d/agent"], "--state-dir"),
        (vec!["--bundle", "a=/c;b=/d", "--tag", "v1"], "of which bundle?"),
    ] {
        let said = check(&arguments).unwrap_err();
        assert!(said.contains(fault), "{arguments:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    assert!(check(&["--bundle", "a=/c;b=/c2"]).is_ok(), "a name that begins alike is another directory");
}

#[test]
fn releases_are_fetched_ahead_unless_the_option_or_the_entry_says_otherwise() {
    let ahead =
        |arguments: &[&str]| check(arguments).unwrap().bundles.iter().map(|bundle| bundle.prefetch).collect::<Vec<_>>();
    assert_eq!(ahead(&[]), [true]);
    assert_eq!(ahead(&["--prefetch", "off"]), [false]);
    assert_eq!(ahead(&["--prefetch"]), [true]);
    assert_eq!(ahead(&["--bundle", "a=/a;b=/b,prefetch=off"]), [true, false]);
    assert_eq!(ahead(&["--bundle", "a=/a,prefetch=on;b=/b", "--prefetch", "no"]), [true, false]);
}

#[test]
fn an_entry_of_another_form_is_refused() {
    for entry in [
        "",
        ";",
        "log",
        "a=",
        "a=/c,chanel=x",
        "a=/c,production",
        "a,channel=x,channel=y",
        "a,tag=v1,channel=x",
        "a,channel=a b",
        "a,prefetch=perhaps",
        "a,prefetch=on,prefetch=off",
    ] {
        assert!(check(&["--bundle", entry]).is_err(), "{entry}");
    }
    let many: Vec<String> = (0..17).map(|number| format!("b{number}=/c{number}")).collect();
    assert!(check(&["--bundle", &many.join(";")]).unwrap_err().contains("17 bundles"));
    let two = check(&["--bundle", "a b=/c;d,colour=red"]).unwrap_err();
    assert!(two.contains("a b") && two.contains("colour=red"), "every fault is told: {two}");
}
