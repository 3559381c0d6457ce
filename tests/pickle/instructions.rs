//! Instructions that would do something, claim something or build something large are refused.

use iteris_web::error::Code;
use pollster::block_on;

use crate::bytes::{Parts, archive, dictionary, text};
use crate::{open, refused};

#[track_caller]
pub(crate) fn pickle_refused(pickle: &[u8], part: &str) {
    refused(archive(pickle), Code::PickleRefused, part);
}

#[test]
fn the_pickle_that_the_others_here_are_made_of_is_good() {
    let checkpoint = open(archive(&Parts::default().pickle())).unwrap();
    assert_eq!(block_on(checkpoint.f32("w")).unwrap(), [1.5, -2.0]);
}

/// What malicious pickles on the hub consist of: a function by name, its arguments, a call.
#[test]
fn nothing_is_called() {
    for (code, part) in [
        (
            &b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00id\x85R."[..],
            "os.system",
        ),
        (
            b"\x80\x02cposix\nsystem\nX\x02\x00\x00\x00id\x85R.",
            "posix.system",
        ),
        (
            b"\x80\x02cbuiltins\neval\nX\x01\x00\x00\x001\x85R.",
            "builtins.eval",
        ),
        (
            b"\x80\x02c__builtin__\nexec\nX\x01\x00\x00\x001\x85R.",
            "__builtin__.exec",
        ),
        (
            b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02id\x85R.",
            "os.system",
        ),
        (
            b"\x80\x02cbuiltins\ngetattr\n(ctorch\nload\nX\x01\x00\x00\x00_tR.",
            "builtins.getattr",
        ),
        (b"\x80\x02ctorch\nload\nX\x01\x00\x00\x00f\x85R.", "torch.load"),
        (
            b"\x80\x02ctorch._utils\n_rebuild_tensor\n)R.",
            "torch._utils._rebuild_tensor,",
        ),
        (
            b"\x80\x02ctorch\nFloatStorage.from_file\n)R.",
            "torch.FloatStorage.from_file",
        ),
        (
            b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n)R.",
            "_reconstruct",
        ),
        (b"cos\nsystem\n(S'id'\ntR.", "os.system"),
        // INST, OBJ, NEWOBJ, NEWOBJ_EX, EXT1 and buffers are not known at all.
        (b"\x80\x02(X\x02\x00\x00\x00idios\nsystem\n.", "instruction 0x69"),
        (b"\x80\x02(ccollections\nOrderedDict\no.", "instruction 0x6f"),
        (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "instruction 0x81"),
        (b"\x80\x04ccollections\nOrderedDict\n)}\x92.", "instruction 0x92"),
        (b"\x80\x02\x82\x01.", "instruction 0x82"),
        (b"\x80\x05\x97.", "instruction 0x97"),
        (b"\x80\x02P0\n.", "instruction 0x50"),
    ] {
        pickle_refused(code, part);
        // The same, in the place where a good pickle has a part of its tensor.
        let body: Vec<u8> = code.iter().copied().skip_while(|&b| b == 0x80 || b < 6).collect();
        let body = &body[..body.len() - 1];
        pickle_refused(
            &Parts {
                hooks: body,
                ..Parts::default()
            }
            .pickle(),
            part,
        );
    }
}

#[test]
fn a_name_of_the_file_cannot_write_over_the_terminal() {
    let error = open(archive(b"\x80\x02cos\x1b[2J\nsystem\n."))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("\\u{1b}[2J.system") && !error.contains('\x1b'),
        "{error}"
    );
}

#[test]
fn what_may_be_called_is_called_with_a_tensors_parts_alone() {
    for code in [
        &b"\x80\x02ccollections\nOrderedDict\n}\x85R."[..],
        b"\x80\x02ctorch\nFloatStorage\n)R.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}R.",
        b"\x80\x02ctorch._utils\n_rebuild_parameter\nNN}\x87R.",
        b"\x80\x02N)R.",
        b"\x80\x02ccollections\nOrderedDict\n)b.",
        b"\x80\x02}}b.",
        b"\x80\x02ccollections\nOrderedDict\n)R}X\x07\x00\x00\x00__cls__Nsb.",
        b"\x80\x02ccollections\nOrderedDict\n)R}b.",
        b"\x80\x02NQ.",
        b"\x80\x02)Q.",
        b"\x80\x02X\x07\x00\x00\x00storageNNNN\x85Q.",
    ] {
        pickle_refused(code, "The pickle");
    }
    let module = [
        &b"\x80\x02("[..],
        &text("module"),
        b"ctorch\nFloatStorage\n",
        &text("0"),
        &text("cpu"),
        b"K\x02tQ.",
    ];
    pickle_refused(&module.concat(), "no storage");
    for parts in [
        Parts {
            storage: b"X\x05\x00\x00\x00torch",
            ..Parts::default()
        },
        Parts {
            key: b"K\x00",
            ..Parts::default()
        },
        Parts {
            elements: b"J\xff\xff\xff\xff",
            ..Parts::default()
        },
        Parts {
            elements: b"K\x02(K\x00t",
            ..Parts::default()
        },
    ] {
        pickle_refused(&parts.pickle(), "no storage");
    }
    for parts in [
        Parts {
            offset: b"J\xff\xff\xff\xff",
            ..Parts::default()
        },
        Parts {
            offset: b"N",
            ..Parts::default()
        },
        Parts {
            shape: b"K\x02K\x01\x86",
            ..Parts::default()
        },
        Parts {
            shape: b"N\x85",
            ..Parts::default()
        },
        Parts {
            shape: b"J\xfe\xff\xff\xff\x85",
            ..Parts::default()
        },
        Parts {
            strides: b"J\xff\xff\xff\xff\x85",
            ..Parts::default()
        },
        Parts {
            shape: b"(K\x01K\x01K\x01K\x01K\x01K\x01K\x01K\x01K\x02t",
            strides: b"(K\x01K\x01K\x01K\x01K\x01K\x01K\x01K\x01K\x01t",
            ..Parts::default()
        },
        Parts {
            requires_grad: b"K\x00",
            ..Parts::default()
        },
        Parts {
            hooks: b"N",
            ..Parts::default()
        },
        Parts {
            hooks: b"}X\x01\x00\x00\x00hNs",
            ..Parts::default()
        },
        Parts {
            attributes: b"}X\x03\x00\x00\x00neg\x88s",
            ..Parts::default()
        },
        Parts {
            attributes: b"}}",
            ..Parts::default()
        },
    ] {
        pickle_refused(&parts.pickle(), "of a kind that is not read");
    }
    for parts in [
        Parts {
            attributes: b"N",
            ..Parts::default()
        },
        Parts {
            attributes: b"}",
            ..Parts::default()
        },
        Parts {
            requires_grad: b"\x88",
            ..Parts::default()
        },
    ] {
        assert!(open(archive(&parts.pickle())).is_ok());
    }
}

#[test]
fn a_view_stays_inside_its_storage() {
    for (parts, part) in [
        (
            Parts {
                offset: b"K\x01",
                ..Parts::default()
            },
            "reaches beyond its storage (w)",
        ),
        (
            Parts {
                shape: b"K\x03\x85",
                ..Parts::default()
            },
            "reaches beyond its storage (w)",
        ),
        (
            Parts {
                strides: b"K\x02\x85",
                ..Parts::default()
            },
            "reaches beyond its storage (w)",
        ),
        (
            Parts {
                offset: b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f",
                ..Parts::default()
            },
            "reaches beyond",
        ),
        (
            Parts {
                shape: b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7fK\x03\x86",
                strides: b"K\x00K\x00\x86",
                ..Parts::default()
            },
            "overflows",
        ),
        (
            Parts {
                shape: b"K\x05\x85",
                strides: b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x85",
                ..Parts::default()
            },
            "overflows",
        ),
        (
            Parts {
                shape: b"J\xff\xff\xff\x7f\x85",
                strides: b"K\x00\x85",
                ..Parts::default()
            },
            "repeats its elements",
        ),
        (
            Parts {
                elements: b"K\x03",
                ..Parts::default()
            },
            "A storage of 3 elements of F32 has 8 bytes",
        ),
        (
            Parts {
                elements: b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f",
                ..Parts::default()
            },
            "has 8 bytes",
        ),
        (
            Parts {
                storage: b"ctorch\nDoubleStorage\n",
                ..Parts::default()
            },
            "2 elements of F64",
        ),
        (
            Parts {
                key: b"X\x01\x00\x00\x001",
                ..Parts::default()
            },
            "does not hold archive/data/1",
        ),
        (
            Parts {
                key: b"X\x05\x00\x00\x00../..",
                ..Parts::default()
            },
            "does not hold archive/data/../..",
        ),
    ] {
        pickle_refused(&parts.pickle(), part);
    }
    // Numbers that are not used may be any.
    let empty = Parts {
        shape: b"K\x00\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x86",
        strides: b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7fK\x01\x86",
        ..Parts::default()
    };
    let checkpoint = open(archive(&empty.pickle())).unwrap();
    assert!(block_on(checkpoint.f32("w")).unwrap().is_empty());
    let one = Parts {
        shape: b"K\x01K\x02\x86",
        strides: b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7fK\x01\x86",
        ..Parts::default()
    };
    let checkpoint = open(archive(&one.pickle())).unwrap();
    assert_eq!(block_on(checkpoint.f32("w")).unwrap(), [1.5, -2.0]);
}

#[test]
fn one_storage_is_not_of_two_types() {
    let half = Parts {
        storage: b"ctorch\nHalfStorage\n",
        elements: b"K\x04",
        ..Parts::default()
    }
    .tensor();
    let pickle = dictionary(&[("w", &Parts::default().tensor()), ("x", &half)]);
    pickle_refused(
        &pickle,
        "The storage 0 is referred to as 2 elements of F32 and as 4 of F16",
    );
}

#[test]
fn the_machine_takes_nothing_that_is_not_there() {
    for code in [
        &b"\x80\x02."[..],
        b"\x80\x02\x85.",
        b"\x80\x02NN\x87.",
        b"\x80\x02t.",
        b"\x80\x02u.",
        b"\x80\x02(u.",
        b"\x80\x02}(Nu.",
        b"\x80\x02}N(s.",
        b"\x80\x02}NNNs.",
        b"\x80\x02N(Ne.",
        b"\x80\x02]a.",
        b"\x80\x02NN(\x86t.",
        b"\x80\x02q\x00.",
        b"\x80\x02h\x00.",
        b"\x80\x02j\xff\xff\xff\xff.",
        b"\x80\x02\x94.",
        b"\x80\x02R.",
        b"\x80\x02b.",
        b"\x80\x02Q.",
        b"\x80\x04\x93.",
        b"\x80\x04NN\x93.",
        b"\x80\x02c",
        b"\x80\x02cos\n",
        b"\x80\x01N.",
        b"\x80\x06N.",
        b"",
    ] {
        pickle_refused(code, "The pickle");
    }
    // From below an open MARK, as what the mark will take must still be there.
    pickle_refused(b"\x80\x02}(.", "takes a value that is not there");
    pickle_refused(b"\x80\x02NN(\x86t.", "takes a value that is not there");
    pickle_refused(b"\x80\x02X\x01\x00\x00\x00\xff.", "not UTF-8");
    pickle_refused(
        &[Parts::default().pickle(), b"N.".to_vec()].concat(),
        "Something follows",
    );
    pickle_refused(b"\x80\x02}K\x00K\x00s.", "other than text");
}
