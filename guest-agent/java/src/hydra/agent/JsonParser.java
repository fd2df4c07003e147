package hydra.agent;

import java.math.BigDecimal;
import java.math.BigInteger;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Parses JSON (RFC 8259) from UTF-8 bytes into {@link LinkedHashMap}, {@link ArrayList}, {@link String}, {@link Long} or
 * {@link BigInteger}, {@link Double} or {@link BigDecimal}, {@link Boolean} and null. It accepts nothing that the grammar
 * does not; of equal keys the last one counts.
 */
final class JsonParser {
    /** Deeper nesting is refused, so that no text can overflow the stack. */
    static final int MAX_DEPTH = 512;
    /** Longer numbers are refused: the time to convert one grows with the square of its length. */
    static final int MAX_NUMBER = 1000;

    private final byte[] text;
    private final int start;
    private final int end;
    private int at;
    private int depth;

    private JsonParser(byte[] text, int start, int end) {
        this.text = text;
        this.start = start;
        this.at = start;
        this.end = end;
    }

    /** The value that the bytes from {@code start} to {@code end} hold. */
    static Object parse(byte[] text, int start, int end) throws JsonException {
        JsonParser parser = new JsonParser(text, start, end);
        parser.skipSpace();
        Object value = parser.value();
        parser.skipSpace();
        if (parser.at != end) {
            throw parser.wrong("nothing more");
        }
        return value;
    }

    private Object value() throws JsonException {
        if (at == end) {
            throw wrong("a value");
        }
        switch (text[at]) {
            case '{':
                return object();
            case '[':
                return array();
            case '"':
                return string();
            case 't':
                literal("true");
                return Boolean.TRUE;
            case 'f':
                literal("false");
                return Boolean.FALSE;
            case 'n':
                literal("null");
                return null;
            default:
                return number();
        }
    }

    private Map<String, Object> object() throws JsonException {
        Map<String, Object> map = new LinkedHashMap<>();
        enter();
        if (closes('}')) {
            return map;
        }
        while (true) {
            if (at == end || text[at] != '"') {
                throw wrong("a key in quotes");
            }
            String key = string();
            skipSpace();
            if (at == end || text[at] != ':') {
                throw wrong("':'");
            }
            at++;
            skipSpace();
            map.put(key, value());
            skipSpace();
            if (closes('}')) {
                return map;
            }
            comma("',' or '}'");
        }
    }

    private List<Object> array() throws JsonException {
        List<Object> list = new ArrayList<>();
        enter();
        if (closes(']')) {
            return list;
        }
        while (true) {
            list.add(value());
            skipSpace();
            if (closes(']')) {
                return list;
            }
            comma("',' or ']'");
        }
    }

    private void enter() throws JsonException {
        if (++depth > MAX_DEPTH) {
            throw new JsonException("nested deeper than " + MAX_DEPTH + " levels");
        }
        at++;
        skipSpace();
    }

    private boolean closes(char bracket) {
        if (at < end && text[at] == bracket) {
            at++;
            depth--;
            return true;
        }
        return false;
    }

    private void comma(String expected) throws JsonException {
        if (at == end || text[at] != ',') {
            throw wrong(expected);
        }
        at++;
        skipSpace();
    }

    private String string() throws JsonException {
        int from = ++at;
        int bits = 0;
        while (at < end) {
            byte b = text[at];
            if (b == '"') {
                String plain = text(from, at, bits);
                at++;
                return plain;
            }
            if (b == '\\') {
                return escapedString(from, bits);
            }
            if (b >= 0 && b < ' ') {
                throw wrong("a character that is not a control character");
            }
            bits |= b;
            at++;
        }
        throw wrong("'\"'");
    }

    /** The rest of a string from its first backslash on; {@code from} is where the string began. */
    private String escapedString(int from, int bits) throws JsonException {
        StringBuilder builder = new StringBuilder();
        while (at < end) {
            byte b = text[at];
            if (b == '"') {
                builder.append(text(from, at, bits));
                at++;
                return builder.toString();
            }
            if (b == '\\') {
                builder.append(text(from, at, bits));
                at++;
                builder.append(escape());
                from = at;
                bits = 0;
            } else if (b >= 0 && b < ' ') {
                throw wrong("a character that is not a control character");
            } else {
                bits |= b;
                at++;
            }
        }
        throw wrong("'\"'");
    }

    /** The character whose escape stands after the backslash. */
    private char escape() throws JsonException {
        int c = at < end ? text[at] : -1;
        switch (c) {
            case '"':
            case '\\':
            case '/':
                at++;
                return (char) c;
            case 'b':
                at++;
                return '\b';
            case 'f':
                at++;
                return '\f';
            case 'n':
                at++;
                return '\n';
            case 'r':
                at++;
                return '\r';
            case 't':
                at++;
                return '\t';
            case 'u':
                at++;
                int code = 0;
                for (int i = 0; i < 4; i++, at++) {
                    int digit = at < end ? Character.digit((char) (text[at] & 0xff), 16) : -1;
                    if (digit < 0) {
                        throw wrong("a hexadecimal digit");
                    }
                    code = code << 4 | digit;
                }
                return (char) code;
            default:
                throw wrong("an escape (one of \"\\/bfnrtu)");
        }
    }

    /** {@code bits} is the or of all bytes: negative if one of them is not ASCII. */
    private String text(int from, int to, int bits) {
        return new String(text, from, to - from, bits >= 0 ? StandardCharsets.ISO_8859_1 : StandardCharsets.UTF_8);
    }

    private Object number() throws JsonException {
        int from = at;
        boolean negative = text[at] == '-';
        if (negative) {
            at++;
        }
        long value = 0;
        int firstDigit = at;
        if (at < end && text[at] == '0') {
            at++;
        } else {
            digits(negative ? "a digit" : "a value");
            if (at - firstDigit <= 18) {
                for (int i = firstDigit; i < at; i++) {
                    value = value * 10 + (text[i] - '0');
                }
            }
        }
        boolean integer = true;
        int integerDigits = at - firstDigit;
        if (at < end && text[at] == '.') {
            integer = false;
            at++;
            digits("a digit");
        }
        if (at < end && (text[at] | 0x20) == 'e') {
            integer = false;
            at++;
            if (at < end && (text[at] == '+' || text[at] == '-')) {
                at++;
            }
            digits("a digit");
        }
        if (integer && integerDigits <= 18) {
            return negative ? -value : value;
        }
        return largeOrFraction(from, integer);
    }

    private Number largeOrFraction(int from, boolean integer) throws JsonException {
        if (at - from > MAX_NUMBER) {
            throw new JsonException("a number of more than " + MAX_NUMBER + " characters");
        }
        String digits = text(from, at, 0);
        if (integer) {
            BigInteger value = new BigInteger(digits);
            if (value.bitLength() < Long.SIZE) {
                return value.longValue();
            }
            return value;
        }
        double value = Double.parseDouble(digits);
        if (!Double.isInfinite(value)) {
            return value;
        }
        try {
            return new BigDecimal(digits);
        } catch (ArithmeticException | NumberFormatException e) {
            throw new JsonException("a number whose exponent is out of range");
        }
    }

    private void digits(String expected) throws JsonException {
        int from = at;
        while (at < end && text[at] >= '0' && text[at] <= '9') {
            at++;
        }
        if (at == from) {
            throw wrong(expected);
        }
    }

    private void literal(String word) throws JsonException {
        for (int i = 0; i < word.length(); i++, at++) {
            if (at == end || text[at] != word.charAt(i)) {
                throw wrong(word);
            }
        }
    }

    private void skipSpace() {
        while (at < end) {
            byte b = text[at];
            if (b != ' ' && b != '\n' && b != '\r' && b != '\t') {
                return;
            }
            at++;
        }
    }

    private JsonException wrong(String expected) {
        return new JsonException("expected " + expected + " at byte " + (at - start));
    }
}
