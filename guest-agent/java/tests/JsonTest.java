package hydra.agent;

import java.math.BigDecimal;
import java.math.BigInteger;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Random;

/** Tests of the JSON parser and writer; prints a line for each failure, then {@code N passed, N failed}. */
public final class JsonTest {
    private static final String DAMAGE = "{}[]\",:\\u0-.eE+tfn \n\u0001\u00ff";

    private static int passed;
    private static int failed;
    /** Failures within the test that runs. */
    private static int failures;

    public static void main(String[] arguments) {
        run(JsonTest::acceptsJson);
        run(JsonTest::refusesEverythingElse);
        run(JsonTest::writesAndReadsBackRandomValues);
        run(JsonTest::survivesDamagedText);
        run(JsonTest::limitsDepthAndNumbers);
        System.out.println(passed + " passed, " + failed + " failed");
        System.exit(failed == 0 ? 0 : 1);
    }

    private static void run(Runnable test) {
        failures = 0;
        test.run();
        if (failures == 0) {
            passed++;
        } else {
            failed++;
        }
    }

    private static void acceptsJson() {
        parses("null", null);
        parses(" \t\r\n true ", true);
        parses("0", 0L);
        parses("-0", 0L);
        parses("-12", -12L);
        parses("9223372036854775807", Long.MAX_VALUE);
        parses("-9223372036854775808", Long.MIN_VALUE);
        parses("9223372036854775808", new BigInteger("9223372036854775808"));
        parses("1.5", 1.5);
        parses("1e3", 1000.0);
        parses("1E-2", 0.01);
        parses("1e999", new BigDecimal("1e999"));
        parses("\"\"", "");
        parses("\"a\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e4\"", "a\"\\/\b\f\n\r\t\u00e4");
        parses("\"\\ud83d\\ude00 \u20ac \ud83d\ude00\"", "\ud83d\ude00 \u20ac \ud83d\ude00");
        parses("[]", List.of());
        parses("[ 1 , [ ] , \"x\" ]", List.of(1L, List.of(), "x"));
        parses("{}", Map.of());
        parses("{ \"a\" : { \"b\" : [ null ] } , \"c\" : false }", map("a", map("b", Arrays.asList((Object) null)), "c", false));
        parses("{\"a\":1,\"a\":2}", map("a", 2L));
    }

    private static void refusesEverythingElse() {
        for (String text : new String[] {
            "", " ", "nul", "nulll", "True", "tru", "01", "-", "-a", "+1", ".5", "1.", "1.e3", "1e", "1e+", "0x10", "NaN",
            "Infinity", "\"", "\"a", "\"\\\"", "\"\\x\"", "\"\\u12\"", "\"\\u12g4\"", "\"\n\"", "\"\u0000\"", "'a'", "[", "[1", "[1,",
            "[1,]", "[,1]", "[1 2]", "]", "{", "{\"a\"", "{\"a\":", "{\"a\":1", "{\"a\":1,", "{\"a\":1,}", "{a:1}", "{1:1}",
            "{\"a\" 1}", "{\"a\":1 \"b\":2}", "1 2", "[] []", "// x\n1", "\ufeff1", "\u00a01", "hello", "[1e1000000000000000000]",
        }) {
            try {
                Object value = parse(text);
                fail("parsed as " + value + ": " + text);
            } catch (JsonException expected) {
                // As it should be.
            }
        }
    }

    /** Random values, written and read back, are equal. */
    private static void writesAndReadsBackRandomValues() {
        Random random = new Random(1);
        for (int i = 0; i < 20_000; i++) {
            Object value = randomValue(random, 4);
            try {
                String text = write(value);
                check(Objects.equals(parse(text), value), "read back otherwise: " + text);
            } catch (JsonException e) {
                fail("not written or not read: " + value + ": " + e.getMessage());
            }
        }
    }

    /** Any damage to a text gives a value or a JsonException, nothing else. What is still JSON can be written again, to the same value. */
    private static void survivesDamagedText() {
        Random random = new Random(2);
        for (int i = 0; i < 50_000; i++) {
            byte[] text = null;
            try {
                text = write(randomValue(random, 3)).getBytes(StandardCharsets.UTF_8);
                for (int damage = random.nextInt(3) + 1; damage > 0 && text.length > 0; damage--) {
                    int at = random.nextInt(text.length);
                    switch (random.nextInt(3)) {
                        case 0 -> text[at] = (byte) DAMAGE.charAt(random.nextInt(DAMAGE.length()));
                        case 1 -> text = Arrays.copyOf(text, at);
                        default -> text[at] ^= 1 << random.nextInt(8);
                    }
                }
                Object value = JsonParser.parse(text, 0, text.length);
                check(Objects.equals(parse(write(value)), value), "not stable: " + new String(text, StandardCharsets.UTF_8));
            } catch (JsonException expected) {
                // As it should be.
            } catch (RuntimeException e) {
                fail(e + " for " + new String(text, StandardCharsets.UTF_8));
            }
        }
    }

    private static void limitsDepthAndNumbers() {
        int most = JsonParser.MAX_DEPTH;
        try {
            Object value = parse("[".repeat(most) + "]".repeat(most));
            check(write(value).length() == 2 * most, "the deepest value is written");
            fail("written though too deep: " + write(List.of(value)));
        } catch (JsonException e) {
            check(e.getMessage().contains("deeper"), e.getMessage());
        }
        for (String text : new String[] {"[".repeat(most + 1) + "]".repeat(most + 1), "[".repeat(10_000_000), "1".repeat(1001)}) {
            try {
                parse(text);
                fail("accepted though over a limit");
            } catch (JsonException expected) {
                // As it should be.
            }
        }
    }

    private static Object randomValue(Random random, int depth) {
        switch (random.nextInt(depth == 0 ? 6 : 8)) {
            case 0:
                return null;
            case 1:
                return random.nextBoolean();
            case 2:
                return random.nextLong() >> random.nextInt(64);
            case 3:
                double value = Double.longBitsToDouble(random.nextLong());
                return Double.isFinite(value) ? value : 0.5;
            case 4:
                return new BigInteger(100, random).add(BigInteger.ONE.shiftLeft(64)).negate();
            case 5:
                return randomString(random);
            case 6:
                List<Object> list = new ArrayList<>();
                for (int i = random.nextInt(5); i > 0; i--) {
                    list.add(randomValue(random, depth - 1));
                }
                return list;
            default:
                Map<String, Object> map = new LinkedHashMap<>();
                for (int i = random.nextInt(5); i > 0; i--) {
                    map.put(randomString(random), randomValue(random, depth - 1));
                }
                return map;
        }
    }

    private static String randomString(Random random) {
        StringBuilder text = new StringBuilder();
        for (int i = random.nextInt(12); i > 0; i--) {
            switch (random.nextInt(4)) {
                case 0 -> text.append((char) random.nextInt(0x80));
                case 1 -> text.append((char) random.nextInt(0x10000));
                case 2 -> text.appendCodePoint(0x10000 + random.nextInt(0x10000));
                default -> text.append((char) ('a' + random.nextInt(26)));
            }
        }
        return text.toString();
    }

    private static void parses(String text, Object expected) {
        try {
            Object value = parse(text);
            check(Objects.equals(value, expected), text + " gave " + value);
        } catch (JsonException e) {
            fail(text + ": " + e.getMessage());
        }
    }

    private static Object parse(String text) throws JsonException {
        byte[] bytes = ("##" + text + "##").getBytes(StandardCharsets.UTF_8);
        return JsonParser.parse(bytes, 2, bytes.length - 2);
    }

    private static String write(Object value) throws JsonException {
        Bytes out = new Bytes();
        JsonWriter.write(out, value);
        return new String(out.data, Frame.HEADER, out.payloadLength(), StandardCharsets.UTF_8);
    }

    private static Map<String, Object> map(Object... pairs) {
        Map<String, Object> map = new LinkedHashMap<>();
        for (int i = 0; i < pairs.length; i += 2) {
            map.put((String) pairs[i], pairs[i + 1]);
        }
        return map;
    }

    private static void check(boolean holds, String what) {
        if (!holds) {
            fail(what);
        }
    }

    private static void fail(String what) {
        failures++;
        System.out.println("FAILED " + (what.length() > 500 ? what.substring(0, 500) : what));
    }
}
