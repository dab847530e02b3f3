//! The elementary functions against values computed with 500 bits and rounded once.

use super::{arctangent, cosine, log2_plus_one_times, log2_times, power_minus_one, sine, tangent};
use crate::software::float::{Exceptions, F80, FloatEnv, Format, Unpacked};

/// An extended value as sign and exponent, and significand.
type Value = (u16, u64);

/// Two operands (the second is one where there is none) and the nearest result.
type Vector = [Value; 3];

/// Arguments and sines.
const SINES: [Vector; 10] = [
    [
        (0x3fdc, 0x934f_069b_f2a7_4de4),
        (0x3fff, 0x8000_0000_0000_0000),
        (0x3fdc, 0x934f_069b_f2a7_4de4),
    ],
    [
        (0xbffa, 0xe91f_8412_128b_2f33),
        (0x3fff, 0x8000_0000_0000_0000),
        (0xbffa, 0xe8ff_4d19_b6e0_f35f),
    ],
    [
        (0xbfff, 0x876c_823a_9531_985d),
        (0x3fff, 0x8000_0000_0000_0000),
        (0xbffe, 0xdf12_7667_af36_0b76),
    ],
    [
        (0x4001, 0x8b00_51ad_0999_50d8),
        (0x3fff, 0x8000_0000_0000_0000),
        (0xbffe, 0xeece_1f61_9c9b_0721),
    ],
    [
        (0xc006, 0x8b9c_7bec_3d9c_1724),
        (0x3fff, 0x8000_0000_0000_0000),
        (0xbffe, 0xfb69_7c93_ffe9_fcda),
    ],
    [
        (0x4014, 0xc860_c967_d3ac_94af),
        (0x3fff, 0x8000_0000_0000_0000),
        (0xbffe, 0xfbb6_90f2_b5c8_1fe3),
    ],
    [
        (0xc039, 0xd04f_bb5a_a170_b338),
        (0x3fff, 0x8000_0000_0000_0000),
        (0xbffe, 0xc4ed_7ca8_2434_8251),
    ],
    [
        (0x403d, 0xcaf3_057a_93bd_04cf),
        (0x3fff, 0x8000_0000_0000_0000),
        (0x3ffe, 0xff2d_6e0e_e50b_2f00),
    ],
    [
        (0x4000, 0xc90f_daa2_2168_c235),
        (0x3fff, 0x8000_0000_0000_0000),
        (0xbfbe, 0xece6_75d1_fc8f_8cbb),
    ],
    [
        (0x403d, 0xc90f_daa2_2168_c235),
        (0x3fff, 0x8000_0000_0000_0000),
        (0x3ffb, 0xec5f_4dee_a233_7239),
    ],
];

/// Arguments and cosines.
const COSINES: [Vector; 7] = [
    [
        (0xbfee, 0xc740_cb9f_0bec_d7b0),
        (0x3fff, 0x8000_0000_0000_0000),
        (0x3ffe, 0xffff_ffff_b275_1984),
    ],
    [
        (0xbffc, 0x9276_f352_6b4c_b242),
        (0x3fff, 0x8000_0000_0000_0000),
        (0x3ffe, 0xfd62_c53a_2a14_e176),
    ],
    [
        (0xc000, 0xc7b6_82ac_4ef8_aa38),
        (0x3fff, 0x8000_0000_0000_0000),
        (0xbffe, 0xfff1_7131_bc96_56e3),
    ],
    [
        (0xc001, 0xca71_dfc8_1a61_dbe2),
        (0x3fff, 0x8000_0000_0000_0000),
        (0x3ffe, 0xffc2_d028_7cd6_b5e7),
    ],
    [
        (0xc019, 0x8c78_9ae9_5f55_7203),
        (0x3fff, 0x8000_0000_0000_0000),
        (0x3ffe, 0xd8f2_27d4_97bc_926b),
    ],
    [
        (0xc03d, 0x87a1_02da_907a_70c3),
        (0x3fff, 0x8000_0000_0000_0000),
        (0xbffd, 0x981f_a0d8_a38f_e249),
    ],
    [
        (0x3fff, 0xc90f_daa2_2168_c235),
        (0x3fff, 0x8000_0000_0000_0000),
        (0xbfbd, 0xece6_75d1_fc8f_8cbb),
    ],
];

/// Arguments and tangents.
const TANGENTS: [Vector; 7] = [
    [
        (0x3ff2, 0xc40f_68b1_ae2e_b154),
        (0x3fff, 0x8000_0000_0000_0000),
        (0x3ff2, 0xc40f_68d8_034d_141d),
    ],
    [
        (0xbffc, 0xcaf3_b0e8_7731_af10),
        (0x3fff, 0x8000_0000_0000_0000),
        (0xbffc, 0xcda6_d978_fa32_a496),
    ],
    [
        (0xbfff, 0x9fcc_713b_4cbd_87ad),
        (0x3fff, 0x8000_0000_0000_0000),
        (0xc000, 0xbf9a_bd83_9893_e599),
    ],
    [
        (0x4001, 0xc986_b757_14f4_733f),
        (0x3fff, 0x8000_0000_0000_0000),
        (0x3ff8, 0xedbd_af4b_7b27_1969),
    ],
    [
        (0xc022, 0xabf7_02e6_e009_02c7),
        (0x3fff, 0x8000_0000_0000_0000),
        (0xc000, 0x8865_b2f7_0d45_7096),
    ],
    [
        (0x403d, 0xfd76_5e9c_9be4_bcfc),
        (0x3fff, 0x8000_0000_0000_0000),
        (0x4000, 0x8a20_a12f_e0ad_4401),
    ],
    [
        (0x3fff, 0xc90f_daa2_2168_c235),
        (0x3fff, 0x8000_0000_0000_0000),
        (0xc040, 0x8a51_e04d_aabd_a35f),
    ],
];

/// Exponents and powers of two minus one.
const POWERS: [Vector; 8] = [
    [
        (0xbfcb, 0x951d_7a6a_6b0a_18e8),
        (0x3fff, 0x8000_0000_0000_0000),
        (0xbfca, 0xceb7_ad74_2e18_741a),
    ],
    [
        (0x3fed, 0xbe96_57c1_eeea_cbe2),
        (0x3fff, 0x8000_0000_0000_0000),
        (0x3fed, 0x841a_f483_1c81_ffd5),
    ],
    [
        (0xbffc, 0xe1dd_754f_13de_ef86),
        (0x3fff, 0x8000_0000_0000_0000),
        (0xbffc, 0x912d_56e5_9932_f1b0),
    ],
    [
        (0x3ffd, 0xd8ff_7047_5712_4242),
        (0x3fff, 0x8000_0000_0000_0000),
        (0x3ffd, 0xaed6_4246_478f_a49f),
    ],
    [
        (0x3ffe, 0xe600_8e6e_9474_031b),
        (0x3fff, 0x8000_0000_0000_0000),
        (0x3ffe, 0xdd32_d738_05d5_bde7),
    ],
    [
        (0x3ffe, 0xa28d_5ec0_f1d6_9ed6),
        (0x3fff, 0x8000_0000_0000_0000),
        (0x3ffe, 0x8d8b_2fbd_642e_099f),
    ],
    [
        (0xbffe, 0xdd96_a107_0f88_080b),
        (0x3fff, 0x8000_0000_0000_0000),
        (0xbffd, 0xe700_4c6a_b571_b327),
    ],
    [
        (0x3ffe, 0xdbba_75a9_48db_40af),
        (0x3fff, 0x8000_0000_0000_0000),
        (0x3ffe, 0xd01b_69a3_2afa_5a5e),
    ],
];

/// Arguments, factors, and factors times binary logarithms.
const LOGARITHMS: [Vector; 8] = [
    [
        (0x3c6c, 0x82e3_5783_58d5_563d),
        (0xc001, 0x9582_9bf3_5aff_b229),
        (0x400b, 0x8597_40d6_cf99_eb0a),
    ],
    [
        (0x3ffc, 0x9bee_3b7d_0f17_a300),
        (0x3ffe, 0xde82_b0f3_211c_70cf),
        (0xc000, 0x970a_d760_e8db_9fd7),
    ],
    [
        (0x3ffe, 0xef8a_c158_eab4_77d2),
        (0x4001, 0x954b_7d8d_14a0_f9e7),
        (0xbffd, 0xe4fe_a51b_5e4b_4de8),
    ],
    [
        (0x3fff, 0x9186_cbbf_e225_7159),
        (0x4000, 0xc66d_982f_dd2e_1609),
        (0x3ffe, 0x92f2_5e9f_715b_8276),
    ],
    [
        (0x4001, 0xadec_36a0_fc89_1b4a),
        (0xc004, 0xb0b2_4ce4_e25a_7605),
        (0xc005, 0xd7c5_ec29_6c10_e97e),
    ],
    [
        (0x4a0b, 0x968e_4d78_153e_7c2a),
        (0x3ffc, 0xd44a_4644_3b61_8676),
        (0x4008, 0x8550_bef6_b351_c485),
    ],
    [
        (0x3fff, 0x8000_0000_0000_0001),
        (0x3fff, 0x8000_0000_0000_0000),
        (0x3fc0, 0xb8aa_3b29_5c17_f0bb),
    ],
    [
        (0x3ffe, 0xffff_ffff_ffff_ffff),
        (0x3fff, 0x8000_0000_0000_0000),
        (0xbfbf, 0xb8aa_3b29_5c17_f0bc),
    ],
];

/// Arguments, factors, and factors times binary logarithms of the argument plus one.
const LOGARITHMS_PLUS_ONE: [Vector; 6] = [
    [
        (0x3fca, 0xcb68_662f_d4c2_8c2e),
        (0x3ffe, 0x92a5_8627_010c_4759),
        (0x3fca, 0xa81a_3c5d_bc3a_dc06),
    ],
    [
        (0x3ff0, 0xc87d_de88_9c1c_aaf7),
        (0xbffc, 0xedfa_5459_b0c4_312d),
        (0xbfef, 0x8670_8700_92c3_e084),
    ],
    [
        (0xbffb, 0xd68d_b96d_a7ab_e1c2),
        (0xc001, 0xef7c_419a_e647_cb8f),
        (0x3fff, 0x98f1_5310_656d_f513),
    ],
    [
        (0x3ffd, 0xc796_3764_cc41_69a3),
        (0x4000, 0x8d40_b416_64e5_0cad),
        (0x3fff, 0x8629_23cf_c367_d4b4),
    ],
    [
        (0x3ffd, 0x9865_e4be_0fef_7928),
        (0x3ffd, 0x94c6_59d2_70cc_ec31),
        (0x3ffb, 0xdfb3_3dd4_f80e_b1d9),
    ],
    [
        (0xbffd, 0x8007_a4e4_1a35_8ca0),
        (0x4002, 0xf977_2722_19f9_919c),
        (0xc001, 0xcf21_8930_8c06_2a7a),
    ],
];

/// Ordinates, abscissas, and angles.
const ANGLES: [Vector; 8] = [
    [
        (0x3fc3, 0xefea_1f9b_1200_339d),
        (0x4000, 0xd134_5543_2607_679d),
        (0x3fc2, 0x92ca_2be8_b5d0_6b79),
    ],
    [
        (0x3ff8, 0xae9c_e854_9a2e_f80f),
        (0xbffd, 0xbe79_0392_d953_ee26),
        (0x4000, 0xc73a_9d41_0b3a_5755),
    ],
    [
        (0x3ffd, 0xbdee_4b45_7afb_2c68),
        (0x3ffe, 0xdff5_50aa_1a28_f7b3),
        (0x3ffd, 0xcd56_75b7_c2f6_d400),
    ],
    [
        (0xbffe, 0xea17_eedd_7a86_f7a2),
        (0xc001, 0x9a44_7c3b_05e9_99f3),
        (0xc000, 0xbd10_9997_bc8d_a127),
    ],
    [
        (0xc000, 0x92c3_df35_5c9b_cf35),
        (0x3ffd, 0xc399_1712_c215_a82a),
        (0xbfff, 0xb3ee_ac96_4ba1_873e),
    ],
    [
        (0xc001, 0x8ba6_3bd1_dd02_de92),
        (0xbfff, 0xaef0_04cb_84b5_a818),
        (0xbfff, 0xefe8_dea5_2404_216c),
    ],
    [
        (0xc004, 0x9c84_7913_c59d_b916),
        (0x4001, 0xd176_edde_5464_ecc2),
        (0xbfff, 0xb3d8_8a7b_b4fc_4a43),
    ],
    [
        (0xc034, 0x9ea4_4152_ce5b_2a92),
        (0x3ffe, 0xc241_fc5c_332d_d331),
        (0xbfff, 0xc90f_daa2_2168_bfc2),
    ],
];

fn value((sign_exponent, significand): Value) -> F80 {
    F80 {
        significand,
        sign_exponent,
    }
}

fn check(
    name: &str,
    vectors: &[Vector],
    function: impl Fn(Unpacked, Unpacked, &mut FloatEnv) -> F80,
) {
    for [a, b, expected] in vectors {
        let mut env = FloatEnv::default();
        let result = function(value(*a).unpack(), value(*b).unpack(), &mut env);
        assert_eq!(result, value(*expected), "{name} {a:x?} {b:x?}");
        assert_eq!(env.flags, Exceptions::PRECISION, "{name} {a:x?} {b:x?}");
    }
}

#[test]
fn results_are_the_nearest_values() {
    check("sine", &SINES, |a, _, env| sine(a, env).unwrap());
    check("cosine", &COSINES, |a, _, env| cosine(a, env).unwrap());
    check("tangent", &TANGENTS, |a, _, env| tangent(a, env).unwrap());
    check("power", &POWERS, |a, _, env| power_minus_one(a, env));
    check("logarithm", &LOGARITHMS, log2_times);
    check(
        "logarithm plus one",
        &LOGARITHMS_PLUS_ONE,
        log2_plus_one_times,
    );
    check("angle", &ANGLES, arctangent);
}

#[test]
fn trigonometric_functions_refuse_two_to_the_63() {
    let largest = F80 {
        significand: u64::MAX,
        sign_exponent: 0x403d,
    };
    let too_large = F80 {
        significand: 1 << 63,
        sign_exponent: 0xc03e,
    };
    let mut env = FloatEnv::default();
    assert!(sine(largest.unpack(), &mut env).is_some());
    env.flags = Exceptions::NONE;
    assert_eq!(sine(too_large.unpack(), &mut env), None);
    assert_eq!(cosine(too_large.unpack(), &mut env), None);
    assert_eq!(tangent(too_large.unpack(), &mut env), None);
    assert_eq!(env.flags, Exceptions::NONE);
}

#[test]
fn exact_logarithms_and_powers_raise_nothing() {
    let mut env = FloatEnv::default();
    let eight = F80 {
        significand: 1 << 63,
        sign_exponent: 0x4002,
    };
    let six = F80 {
        significand: 3 << 62,
        sign_exponent: 0x4001,
    };
    let eighteen = F80 {
        significand: 9 << 60,
        sign_exponent: 0x4003,
    };
    assert_eq!(log2_times(eight.unpack(), six.unpack(), &mut env), eighteen);
    assert_eq!(power_minus_one(F80::ONE.unpack(), &mut env), F80::ONE);
    let minus_one = F80 {
        sign_exponent: 0xbfff,
        ..F80::ONE
    };
    let minus_half = F80 {
        sign_exponent: 0xbffe,
        ..F80::ONE
    };
    assert_eq!(power_minus_one(minus_one.unpack(), &mut env), minus_half);
    assert_eq!(env.flags, Exceptions::NONE);
}
