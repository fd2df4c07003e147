/** A function from text to text. */
public class Texted {
    public static String main(String arguments) {
        return arguments.contains("\"name\"") ? "Hello, text!" : "no name in " + arguments;
    }
}
